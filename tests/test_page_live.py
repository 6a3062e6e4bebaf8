"""The page with a camera and with a video: the newest frame wins, and a frame that is kept is an image like any other."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from artifacts import write_artifact
from browser import Browser, browsing

pytest.importorskip("bentoml")
from serving import Running, running

pytestmark = pytest.mark.browser
CAMERA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--autoplay-policy=no-user-gesture-required")
FRAMES = 40


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    with running(folder, tmp_path_factory.mktemp("service")) as service:
        yield service


async def numbers(tab: Browser) -> list[float]:
    """Frames a second, age in milliseconds, frames left out, frames in all."""
    found = re.fullmatch(r"([\d.]+) frames a second · (\d+) ms old · (\d+) of (\d+) left out", await tab.text("live"))
    assert found is not None
    return [float(value) for value in found.groups()]


def pixels(area: str) -> int:
    return int(area.split(" ")[0].replace(",", ""))


def test_a_camera_is_segmented_live_and_a_frame_can_be_kept(service: Running, tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile", *CAMERA) as tab:
            await tab.until("model", "lesion")
            await tab.click("camera")
            await tab.until("status", "Playing camera")
            await tab.until_true("/^[1-9]/.test(document.getElementById('live').textContent)")
            rate, age, left, total = await numbers(tab)
            assert rate > 0
            assert age > 0
            assert left < total
            assert not await tab.enabled("download"), "what moves cannot be saved"
            await tab.set("threshold", 0.05)
            await tab.until_true("parseInt(document.getElementById('area').textContent.replace(',', '')) > 1000")
            await tab.set("threshold", 0.99)
            await tab.until_true("parseInt(document.getElementById('area').textContent.replace(',', '')) < 1000")
            await tab.set("threshold", 0.3)
            await tab.photograph("live.png")
            await tab.size(390, 844, phone=True)
            await tab.photograph("live_phone.png")

            await tab.click("pause")
            kept = await tab.until("status", "Done in")
            assert re.search(r"camera at [\d.]+ s", kept)
            mask = cv2.imread(str(await tab.saved("download", tmp_path / "saved")), cv2.IMREAD_GRAYSCALE)
            assert np.count_nonzero(mask) == pixels(await tab.text("area"))
            frame = cv2.imread(str(await tab.saved("save-overlay", tmp_path / "saved")))
            assert frame.shape[:2] == mask.shape == (480, 640)
            assert await tab.evaluate("document.getElementById('video').paused") is True

            assert await tab.text("pause") == "Go on"
            await tab.click("pause")
            await tab.until("status", "Playing camera")
            await tab.until_true("/^[1-9]/.test(document.getElementById('live').textContent)")
            await tab.click("stop")
            await tab.until("status", "No image yet")
            assert await tab.evaluate("document.getElementById('video').srcObject === null") is True
            assert not tab.complaints

    asyncio.run(scenario())


@pytest.mark.parametrize("way", ["stream", "requests"])
def test_a_video_file_is_played_to_its_end(way: str, service: Running, tmp_path: Path) -> None:
    """Over a stream, and by a request a frame where the way to the service knows no WebSockets."""
    clip = tmp_path / "clip.webm"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"VP80"), 20, (160, 120))
    for i in range(FRAMES):
        frame = np.full((120, 160, 3), 30, np.uint8)
        frame[40:70, 2 * i : 2 * i + 30] = 250
        writer.write(frame)
    writer.release()

    async def scenario() -> None:
        async with browsing(service.url, tmp_path / "profile", *CAMERA) as tab:
            await tab.until("model", "lesion")
            await tab.evaluate(RECORD)
            if way == "requests":
                await tab.evaluate(NO_WEBSOCKETS)
            await tab.choose(clip)
            await tab.until("status", "clip.webm has come to its end")
            seen = await tab.evaluate("window.seen")
            assert len(seen) > 2
            _, _, left, total = [float(value) for value in re.findall(r"[\d.]+", seen[-1])]
            assert left + len(seen) == total <= FRAMES, "every frame was answered or counted as left out"
            corners = await tab.evaluate("window.lefts")
            assert corners == sorted(corners), "no older frame after a newer one"
            assert corners[-1] > corners[0], "the square moved to the right"
            await tab.choose(*broken(tmp_path))
            await tab.until("status", "broken.webm cannot be played")
            assert await tab.evaluate("window.way") == way
            assert not [line for line in tab.complaints if "broken" not in line and "blob:" not in line]

    asyncio.run(scenario())


# Every line of numbers that stood there, and where the box of the square began.
RECORD = """window.seen = []; window.lefts = []; window.real = window.fetch;
const keep = (answer, way) => {
  const box = answer.classes?.[0].box;
  if (box) { window.lefts.push(box[0]); window.way = way; }
};
window.fetch = async (...what) => {
  const response = await window.real(...what);
  keep(await response.clone().json().catch(() => ({})), "requests");
  return response;
};
const Socket = window.WebSocket;
window.WebSocket = class extends Socket {
  constructor(...what) {
    super(...what);
    this.addEventListener("message", ({ data }) => {
      const end = 4 + new DataView(data).getUint32(0);
      if (end < data.byteLength) keep(JSON.parse(new TextDecoder().decode(data.slice(end))), "stream");
    });
  }
};
new MutationObserver(() => {
  const text = document.getElementById('live').textContent;
  if (text) window.seen.push(text);
}).observe(document.getElementById('live'), { childList: true });"""


NO_WEBSOCKETS = """window.WebSocket = class {
  constructor() { setTimeout(() => this.onerror(), 0); }
  close() {}
};"""


def broken(folder: Path) -> tuple[Path]:
    file = folder / "broken.webm"
    file.write_bytes(b"no video")
    return (file,)


def test_no_camera_is_said_plainly(service: Running, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with browsing(service.url, tmp_path) as tab:
            await tab.until("model", "lesion")
            await tab.click("camera")
            await tab.until("status", "There is no camera for this page")

    asyncio.run(scenario())
