"""The page at `/`: what it loads, what it names, and, in a browser, what it shows and saves."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from artifacts import write_artifact
from browser import Browser, browsing
from dicoms import dicom_file, enhanced_file
from PIL import Image

pytest.importorskip("bentoml")
from serving import Running, running

from gazeseg_serve.presence import Presence

PAGE = Path(__file__).parent.parent / "service" / "page"
SCRIPTS = [path for path in PAGE.glob("*.js") if path.name != "docs.js"]


def test_nothing_is_loaded_from_another_host() -> None:
    for path in PAGE.glob("*.*"):
        if path.suffix in (".html", ".css", ".js"):
            assert not re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", path.read_text()), path.name


def test_every_element_the_scripts_use_is_in_the_page() -> None:
    page = (PAGE / "index.html").read_text()
    used = {name for path in SCRIPTS for name in re.findall(r'at\("([\w-]+)"\)', path.read_text())}
    assert len(used) > 25
    assert used <= set(re.findall(r'id="([\w-]+)"', page))


def test_every_control_has_a_name_and_the_status_is_announced() -> None:
    page = (PAGE / "index.html").read_text()
    labelled = set(re.findall(r'<label[^>]*for="([\w-]+)"', page))
    for control in re.findall(r"<input[^>]*>", page):
        name = re.search(r'id="([\w-]+)"', control)
        assert name is not None
        inside = re.search(rf'<label[^>]*>\s*<input[^>]*id="{name[1]}"', page)
        assert name[1] in labelled or inside, control
    assert all("alt=" in image for image in re.findall(r"<img[^>]*>", page))
    assert all(
        "aria-label=" in button or re.search(r">[^<]*\w|<img", button) for button in re.findall(r"<button.*?</button>", page)
    )
    assert 'aria-live="polite"' in page
    assert '<html lang="en">' in page


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    with running(folder, tmp_path_factory.mktemp("service")) as service:
        yield service


def picture(path: Path, width: int, spots: int = 1) -> Path:
    """A dark image with bright squares of 8 x 8 pixels, smoothed so that the threshold matters."""
    pixels = np.full((60, width, 3), 40, np.uint8)
    for i in range(spots):
        pixels[20:28, 10 + 20 * i : 18 + 20 * i] = 250
    path.write_bytes(cv2.imencode(".png", cv2.GaussianBlur(pixels, (0, 0), 2))[1].tobytes())
    return path


def asked(service: Running, data: bytes, output: str, threshold: float = 0.5, model: str = "default", **more: str) -> bytes:
    response = httpx.post(
        f"{service.url}/v1/models/{model}/segment",
        params={"output": output, "threshold": threshold, **more},
        content=data,
        headers={"Content-Type": "application/octet-stream"},
    )
    return response.raise_for_status().content


def pixels(area: str) -> int:
    return int(area.split(" ")[0].replace(",", ""))


async def opened(tab: Browser) -> None:
    """The script of this page has begun, and not only the blank one's."""
    await tab.until("model", "lesion")


# Requests are held in the page until they are let go: what a slow network does, without waiting.
HOLD = """window.let = []; window.real ??= window.fetch;
window.fetch = (...what) => new Promise((done) => window.let.push(() => done(window.real(...what))));"""
LET_GO = "window.fetch = window.real; window.let.forEach((one) => one());"
SAVES = ("download", "save-json", "save-overlay", "save-seg", "save-sr", "save-series", "save-series-sr")


@pytest.mark.browser
def test_a_sample_is_segmented_and_the_threshold_moves_the_mask_by_keyboard(service: Running, tmp_path: Path) -> None:
    data = (PAGE / "sample2.jpg").read_bytes()
    answer = json.loads(asked(service, data, "json"))

    async def scenario() -> None:
        async with browsing(service.url + "/#sample=2&disagreement", tmp_path) as tab:
            await tab.until("status", "Done in")
            assert pixels(await tab.text("area")) == answer["classes"][0]["area"]
            assert await tab.text("spread") == f"{answer['mean_disagreement']:.4f}"
            assert "448 × 448" in await tab.text("size")
            assert "engine" in await tab.text("time")
            assert await tab.evaluate("document.getElementById('key-row').checkVisibility()") is False
            await tab.evaluate("document.getElementById('threshold').focus()")
            for _ in range(5):
                await tab.press("ArrowRight")
            assert await tab.text("threshold-value") == "0.55"
            assert pixels(await tab.text("area")) < answer["classes"][0]["area"]
            await tab.until("status", "Done at threshold 0.55")
            assert pixels(await tab.text("area")) == json.loads(asked(service, data, "json", 0.55))["classes"][0]["area"]
            assert "0.55" in await tab.evaluate("document.getElementById('canvas').getAttribute('aria-label')")
            await tab.photograph("sample.png")
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_a_sample_can_be_chosen_by_keyboard(service: Running, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with browsing(service.url, tmp_path) as tab:
            await opened(tab)
            await tab.evaluate("document.querySelector('[data-sample]').focus()")
            await tab.press("Enter")
            await tab.until("status", "Done in")
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_what_is_saved_is_what_is_shown(service: Running, tmp_path: Path) -> None:
    first, second, saves = picture(tmp_path / "first.png", 90), picture(tmp_path / "second.png", 120, 3), tmp_path / "saved"
    saves.mkdir()

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await opened(tab)
            await tab.choose(first, second)
            await tab.until("status", "Done in")
            await tab.set("threshold", 0.4)
            assert not await tab.enabled("download"), "a preview is not the server's answer"
            await tab.until("status", "Done at threshold 0.40")
            mask = await tab.saved("download", saves)
            assert mask.name == "first_mask.png"
            assert mask.read_bytes() == asked(service, first.read_bytes(), "png", 0.4)
            with Image.open(mask) as opened_mask:
                assert np.asarray(opened_mask).sum() == pixels(await tab.text("area"))
            numbers = json.loads((await tab.saved("save-json", saves)).read_text())
            assert numbers == {"image": "first.png", **json.loads(asked(service, first.read_bytes(), "json", 0.4))}
            await tab.set("opacity", 0.5)
            overlay = cv2.imread(str(await tab.saved("save-overlay", saves)))
            plain, inside = cv2.imread(str(first)), cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE) > 0
            assert overlay.shape == plain.shape
            away = cv2.dilate(inside.astype(np.uint8), np.ones((9, 9))) == 0
            np.testing.assert_allclose(overlay[away], plain[away], atol=1)
            colour = np.array(numbers["classes"][0]["colour"][::-1])
            middle = cv2.erode(inside.astype(np.uint8), np.ones((7, 7))) > 0
            np.testing.assert_allclose(overlay[middle], (plain[middle] + colour) / 2, atol=2)
            assert middle.any()
            assert not await tab.enabled("save-seg"), "a PNG has no study to put a SEG into"

            # The second file is chosen and its answer is on its way: nothing of the first is left to be seen or saved.
            await tab.evaluate(HOLD)
            await tab.click("next")
            await nothing_is_shown(tab)
            await tab.evaluate(LET_GO)
            await tab.until("status", "Done in")
            mask = await tab.saved("download", saves)
            assert mask.name == "second_mask.png"
            assert mask.read_bytes() == asked(service, second.read_bytes(), "png", 0.4)
            assert not tab.complaints

    asyncio.run(scenario())


async def nothing_is_shown(tab: Browser) -> None:
    for element in SAVES:
        assert not await tab.enabled(element), element
    for element in ("area", "count", "size", "spread", "rows"):
        assert await tab.text(element) == "", element
    assert await tab.evaluate("document.getElementById('canvas').dataset.shown") == "nothing"
    blank = "!document.getElementById('canvas').getContext('2d').getImageData(0, 0, 999, 999).data.some((value) => value)"
    assert await tab.evaluate(blank) is True


@pytest.mark.browser
def test_a_refused_file_leaves_nothing_of_the_one_before(service: Running, tmp_path: Path) -> None:
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"this is no image")

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await opened(tab)
            await tab.choose(picture(tmp_path / "good.png", 90))
            await tab.until("status", "Done in")
            await tab.choose(junk)
            await tab.until("status", "junk.png: not an image")
            await nothing_is_shown(tab)
            assert "not an image" in await tab.text("list")
            await tab.click("previous")
            await tab.until("status", "Done in")
            assert await tab.enabled("download")

    asyncio.run(scenario())


@pytest.mark.browser
def test_a_mask_of_another_model_than_the_one_shown_is_not_saved(service: Running, tmp_path: Path) -> None:
    changed = """window.real = window.fetch;
const headers = { "x-model-id": "another" };
window.fetch = async (...what) => new Response(await (await window.real(...what)).blob(), { headers });"""

    async def scenario() -> None:
        async with browsing(service.url + "/#sample=1", tmp_path) as tab:
            await tab.until("status", "Done in")
            await tab.evaluate(changed)
            await tab.click("download")
            await tab.until("status", "The server has another model")

    asyncio.run(scenario())


@pytest.mark.browser
def test_several_images_are_listed_with_what_was_found_in_each(service: Running, tmp_path: Path) -> None:
    files = [picture(tmp_path / f"image{i}.png", 100 + i, spots=i) for i in range(4)]
    (tmp_path / "junk.png").write_bytes(b"this is no image")

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await opened(tab)
            await tab.choose(*files, tmp_path / "junk.png")
            rows = "[...document.querySelectorAll('#list small')].map((row) => row.textContent)"
            await tab.until_true(f"{rows}.length === 5 && {rows}.every((text) => /found|not an image/.test(text))")
            assert [text.split(" · ")[0][:9] for text in await tab.evaluate(rows)] == [
                "nothing f", "1 × found", "2 × found", "3 × found", "not an im"]  # fmt: skip
            assert await tab.text("count") == "nothing"
            await tab.set("which", 4)
            await tab.until("count", "3 × lesion")
            assert await tab.text("which-value") == "4 of 5"
            assert "103 × 60" in await tab.text("size")
            boxes = "[...document.querySelectorAll('#rows tr')].map((row) => row.cells[3].textContent)"
            sizes = await tab.evaluate(boxes)
            assert len(sizes) == 3
            answer = json.loads(asked(service, files[3].read_bytes(), "json"))
            assert {int(size.split(" px")[0].split(" × ")[1]) for size in sizes} == {answer["classes"][0]["box"][3]}
            await tab.click("boxes")
            await tab.photograph("several.png")
            await tab.click("clear")
            await tab.until("status", "No image yet")
            await nothing_is_shown(tab)
            assert not [line for line in tab.complaints if "415" not in line]

    asyncio.run(scenario())


@pytest.mark.browser
def test_a_series_has_millimetres_and_a_seg(service: Running, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    bright = np.full((40, 64), 100, np.uint16)
    bright[10:30, 8:40] = 4000
    for i, instance in enumerate((3, 1, 2)):
        (tmp_path / f"{i}.dcm").write_bytes(dicom_file(instance, bright, PixelSpacing=[0.5, 0.25]))
    (tmp_path / "saved").mkdir()

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await opened(tab)
            await tab.choose(*(tmp_path / f"{i}.dcm" for i in range(3)))
            await tab.until("status", "Done in")
            assert "Series of 3 slices (MR)" in await tab.text("list")
            names = await tab.evaluate("[...document.querySelectorAll('#list b')].map((name) => name.textContent)")
            assert names == ["1.dcm", "2.dcm", "0.dcm"], "along the normal of the slices"
            area = await tab.text("area")
            assert f"{pixels(area) * 0.5 * 0.25:,.1f}".removesuffix(".0") in area.partition("·")[2].replace("\xa0", " ")
            answer = json.loads(asked(service, (tmp_path / "1.dcm").read_bytes(), "json"))
            _, _, width, height = answer["classes"][0]["box"]
            box = await tab.evaluate("document.querySelector('#rows tr').cells[3].textContent")
            assert box == f"{width} × {height} px · {width * 0.25:g} × {height * 0.5:g} mm"
            assert "64 × 40 pixels of 0.25 × 0.50 mm" in await tab.text("size")
            one = pydicom.dcmread(await tab.saved("save-seg", tmp_path / "saved"))
            assert (one.Modality, one.NumberOfFrames) == ("SEG", 1)
            assert int(one.pixel_array.sum()) == pixels(area)
            report = await tab.saved("save-sr", tmp_path / "saved")
            assert (report.name, pydicom.dcmread(report).Modality) == ("1_sr.dcm", "SR")
            whole = pydicom.dcmread(await tab.saved("save-series", tmp_path / "saved"))
            assert whole.NumberOfFrames == 3
            report = await tab.saved("save-series-sr", tmp_path / "saved")
            assert (report.name, pydicom.dcmread(report).Modality) == ("1_series_sr.dcm", "SR")
            dark, light = await tab.pixels([(60, 20), (20, 20)])
            assert sum(dark) < sum(light), "a slice is shown though the browser cannot read it"
            await tab.photograph("series.png")
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_a_multi_frame_object_has_its_seg_though_no_picture(service: Running, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    (tmp_path / "frames.dcm").write_bytes(enhanced_file(np.full((3, 20, 30), 900, np.uint16)))
    (tmp_path / "saved").mkdir()

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await opened(tab)
            await tab.choose(tmp_path / "frames.dcm")
            await tab.until("status", "frames.dcm: It holds 3 frames")
            assert [element for element in SAVES if await tab.enabled(element)][:2] == ["save-seg", "save-sr"]
            assert await tab.text("area") == ""
            seg = pydicom.dcmread(await tab.saved("save-seg", tmp_path / "saved"))
            assert (seg.Modality, seg.NumberOfFrames) == ("SEG", 3)
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_the_picture_zooms_moves_and_shows_the_image_alone_while_held(service: Running, tmp_path: Path) -> None:
    file = picture(tmp_path / "spot.png", 90)

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await tab.size(1280, 900)
            await opened(tab)
            await tab.choose(file)
            await tab.until("status", "Done in")
            place = "['scale', 'left', 'top'].map((name) => Number(document.getElementById('canvas').dataset[name]))"
            box = await tab.evaluate("(({ x, y, width, height }) => [x, y, width, height])(canvas.getBoundingClientRect())")
            fitted = await tab.evaluate(place)
            assert fitted[0] == pytest.approx(min(box[2] / 90, box[3] / 60))
            x, y = box[0] + 0.4 * box[2], box[1] + 0.4 * box[3]

            def under(scale: float, left: float, top: float) -> list[float]:
                return [(x - box[0] - left) / scale, (y - box[1] - top) / scale]

            await tab.mouse("mouseWheel", x, y, deltaX=0, deltaY=-400)
            await tab.until_true(f"({place})[0] > {fitted[0]} * 2")
            zoomed = await tab.evaluate(place)
            assert under(*zoomed) == pytest.approx(under(*fitted), abs=0.1), "the point under the mouse stays"
            await tab.mouse("mousePressed", x, y)
            await tab.mouse("mouseMoved", x + 30, y + 20, held=True)
            await tab.mouse("mouseReleased", x + 30, y + 20)
            moved = await tab.evaluate(place)
            assert moved == pytest.approx([zoomed[0], zoomed[1] + 30, zoomed[2] + 20], abs=0.5)
            await tab.evaluate("document.getElementById('canvas').focus()")
            await tab.press("0")
            assert await tab.evaluate(place) == pytest.approx(fitted)

            spot = (14, 24)
            plain = cv2.imread(str(file))[spot[1], spot[0], ::-1].tolist()
            assert await tab.pixel(*spot) != pytest.approx(plain, abs=12), "the mask is painted over it"
            await tab.press("h", "keyDown")
            assert await tab.pixel(*spot) == pytest.approx(plain, abs=12)
            await tab.press("h", "keyUp")
            assert await tab.pixel(*spot) != pytest.approx(plain, abs=12)
            button = await tab.evaluate(
                "(({ x, y }) => [x + 9, y + 9])(document.getElementById('hide').getBoundingClientRect())"
            )
            await tab.mouse("mousePressed", *button)
            assert await tab.pixel(*spot) == pytest.approx(plain, abs=12)
            await tab.mouse("mouseReleased", *button)
            assert await tab.pixel(*spot) != pytest.approx(plain, abs=12)
            await tab.evaluate("document.querySelector('#rows button').click()")
            assert (await tab.evaluate(place))[0] > fitted[0], "a press on a number goes there"

            await tab.click("fit")
            for kind, apart in (("touchStart", 20), ("touchMove", 30), ("touchMove", 40), ("touchEnd", None)):
                points = [] if apart is None else [{"x": x - apart, "y": y, "id": 1}, {"x": x + apart, "y": y, "id": 2}]
                await tab.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
            pinched = await tab.evaluate(place)
            assert pinched[0] == pytest.approx(2 * fitted[0], rel=0.1), "two fingers twice as far apart"
            assert under(*pinched) == pytest.approx(under(*fitted), abs=3), "and what is between them stays there"
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_the_disagreement_can_be_seen_and_read(service: Running, tmp_path: Path) -> None:
    file = picture(tmp_path / "spot.png", 90)  # of this model it is half the brightness

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await opened(tab)
            await tab.choose(file)
            await tab.until("status", "Done in")
            spot, ground = (14, 24), (80, 50)
            before = await tab.pixels([spot, ground])
            await tab.click("disagreement")
            after = await tab.pixels([spot, ground])
            assert min(after[0]) > 200, "white where it is greatest"
            assert sum(after[1]) - sum(before[1]) < 100, "and a breath of blue where it is small"
            assert after[1][2] > after[1][0] + 20
            spread = json.loads(asked(service, file.read_bytes(), "json", disagreement="true"))["disagreement_png"]
            greatest = cv2.imdecode(np.frombuffer(base64.b64decode(spread), np.uint8), cv2.IMREAD_UNCHANGED).max() / 65535
            assert await tab.text("scale-top") == f"{greatest:.2f}"
            assert await tab.evaluate("document.getElementById('scale').checkVisibility()")
            await tab.photograph("disagreement.png")

    asyncio.run(scenario())


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height", "phone"), [(390, 844, True), (320, 640, True), (1366, 900, False)])
def test_the_result_comes_first_on_a_phone(service: Running, width: int, height: int, phone: bool, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with browsing(service.url, tmp_path) as tab:
            await tab.size(width, height, phone)
            await opened(tab)
            top = "document.getElementById('{}').getBoundingClientRect().top"
            assert await tab.evaluate(top.format("drop")) < height / 2, "first there is an image to choose"
            await tab.evaluate("document.querySelector('[data-sample]').click()")
            await tab.until("status", "Done in")
            assert await tab.evaluate("document.documentElement.scrollWidth") <= width, "nothing stands out at the side"
            use, canvas, drop, area = [await tab.evaluate(top.format(name)) for name in ("use", "canvas", "drop", "area")]
            assert use < canvas < area
            assert canvas < height / 2
            assert (drop > area) is phone
            assert "Not a medical device" in await tab.text("use")
            await tab.photograph(f"width{width}.png")
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_what_the_model_is_not_for_is_said_and_can_be_forced(service: Running, tmp_path: Path) -> None:
    other = """window.real = window.fetch;
window.fetch = async (where, what) => /segment/.test(where) && !/force=true/.test(where)
  ? new Response(JSON.stringify({ code: "outside-intended-use", detail: "this model is for polyps" }), { status: 415 })
  : window.real(where.replace("&force=true", ""), what);"""

    async def scenario() -> None:
        async with browsing(service.url, tmp_path) as tab:
            await opened(tab)
            await tab.evaluate(other)
            await tab.choose(picture(tmp_path / "slice.png", 90))
            await tab.until("status", "slice.png: this model is for polyps")
            await nothing_is_shown(tab)
            await tab.click("force")
            await tab.until("status", "Done in")
            assert "of another kind" in await tab.text("use")

    asyncio.run(scenario())


@pytest.mark.browser
def test_an_image_that_the_model_takes_for_empty_says_so_and_can_be_marked(tmp_path: Path) -> None:
    rule = Presence(share=0.05, slope=1, offset=0, threshold=0.9, alarm_rate=0.1, suppressed=0.0, with_target=9, without=9)
    write_artifact(tmp_path / "artifact", presence=rule)
    file = picture(tmp_path / "spot.png", 90)

    async def scenario(service: Running) -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await opened(tab)
            await tab.choose(file)
            await tab.until("status", "Done in")
            answer = json.loads(asked(service, file.read_bytes(), "json"))
            assert answer["presence"] < 0.9
            assert await tab.text("presence") == f"{answer['presence']:.2f}, under 0.90: nothing is marked"
            assert pixels(await tab.text("area")) == 0
            await tab.set("threshold", 0.3)
            assert pixels(await tab.text("area")) == 0, "the preview marks nothing, either"
            await tab.until("status", "Done at threshold 0.30")
            await tab.click("anyway")
            marked = json.loads(asked(service, file.read_bytes(), "json", 0.3, presence="0"))["classes"][0]["area"]
            await tab.until("area", f"{marked} px")
            mask = await tab.saved("download", tmp_path)
            assert mask.read_bytes() == asked(service, file.read_bytes(), "png", 0.3, presence="0")
            assert not tab.complaints

    with running(tmp_path / "artifact", tmp_path) as service:
        asyncio.run(scenario(service))


@pytest.mark.browser
def test_a_model_of_several_classes_can_be_chosen(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    write_artifact(tmp_path / "zones", classes=("zone", "core"), disagreement=False)
    colours = np.full((64, 96, 3), 10, np.uint8)  # the first class is red, the second green
    colours[10:30, 10:30, 2] = 250
    colours[30:60, 50:80, 1] = 250
    (tmp_path / "colours.png").write_bytes(cv2.imencode(".png", colours)[1].tobytes())
    (tmp_path / "saved").mkdir()

    async def scenario(service: Running) -> None:
        async with browsing(service.url, tmp_path / "profile") as tab:
            await opened(tab)
            await tab.until_true("document.getElementById('models').length === 2")
            await tab.choose(tmp_path / "colours.png")
            await tab.until("status", "Done in")
            await tab.evaluate(
                "{ const chosen = document.getElementById('models'); chosen.value = 'zones'; "
                "chosen.dispatchEvent(new Event('change')); }"
            )
            await tab.until("count", "1 × zone, 1 × core")
            data = (tmp_path / "colours.png").read_bytes()
            answer = json.loads(asked(service, data, "json", model="zones"))
            areas = [one["area"] for one in answer["classes"]]
            assert pixels(await tab.text("area")) == sum(areas)
            classes = await tab.evaluate("[...document.querySelectorAll('#rows tr')].map((row) => row.cells[1].textContent)")
            assert classes == [name for _, name in sorted(zip(areas, ("zone", "core"), strict=True), reverse=True)]
            assert not await tab.enabled("threshold"), "the likeliest class counts"
            assert not await tab.enabled("disagreement")
            (red, green), shown = [one["colour"] for one in answer["classes"]], await tab.pixels([(20, 20), (65, 45)])
            for colour, own, seen in ((red, [250, 10, 10], shown[0]), (green, [10, 250, 10], shown[1])):
                assert seen == pytest.approx([0.6 * a + 0.4 * b for a, b in zip(own, colour, strict=True)], abs=4)
            mask = await tab.saved("download", tmp_path / "saved")
            assert mask.read_bytes() == asked(service, data, "png", model="zones")
            await tab.photograph("classes.png")
            assert not tab.complaints

    with running(tmp_path / "artifact", tmp_path, GAZESEG_MODELS=f"zones={tmp_path / 'zones'}") as service:
        asyncio.run(scenario(service))


@pytest.mark.browser
def test_the_docs_show_every_route(service: Running, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with browsing(service.url + "/docs", tmp_path) as tab:
            await tab.until_true("document.querySelectorAll('.opblock').length")
            shown: Any = await tab.evaluate("[...document.querySelectorAll('[data-path]')].map(e => e.dataset.path)")
            assert set(httpx.get(service.url + "/openapi.json").json()["paths"]) <= set(shown)
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.browser
def test_a_service_with_keys_asks_for_one_and_takes_it(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")

    async def scenario(url: str) -> None:
        async with browsing(url + "/#sample=1", tmp_path / "profile") as tab:
            await tab.until("status", "send a valid key")
            assert await tab.evaluate("document.getElementById('key-row').checkVisibility()") is True
            await tab.evaluate("document.getElementById('key').value = 'secret'")
            await tab.evaluate("document.getElementById('key-row').requestSubmit()")
            await tab.until("status", "No image yet")
            await tab.evaluate("document.querySelector('[data-sample]').click()")
            await tab.until("status", "Done in")

    with running(tmp_path / "artifact", tmp_path, GAZESEG_API_KEYS="secret") as guarded:
        asyncio.run(scenario(guarded.url))
