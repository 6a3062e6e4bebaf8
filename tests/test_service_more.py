"""Negotiation, several models, batches, DICOM in and out."""

from __future__ import annotations

import gzip
import io
import json
import time
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from artifacts import write_artifact
from dicoms import dicom_file, enhanced_file
from PIL import Image

pytest.importorskip("bentoml")
from serving import PIXELS, encoded, problem, serve, wait_until_ready
from starlette.testclient import TestClient

from gazeseg_serve.predictor import Predictor
from gazeseg_serve.service.negotiate import matches, output_for, preferences
from gazeseg_serve.service.problems import Problem
from gazeseg_serve.service.settings import Settings


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("artifacts")
    write_artifact(root / "first")
    write_artifact(root / "zones", classes=("zone", "core"), disagreement=False)
    return {"first": root / "first", "zones": root / "zones"}


@pytest.fixture(scope="module")
def client(folders: dict[str, Path]) -> Iterator[TestClient]:
    settings = Settings(
        artifact=folders["first"],
        models={"zones": folders["zones"]},
        max_bytes=300_000,
        max_pixels=200_000,
        max_images=12,
        max_batch_bytes=2_000_000,
    )
    with serve(settings) as client:
        wait_until_ready(client)
        yield client


@pytest.mark.parametrize(
    ("accept", "output"),
    [
        ("", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/png", "png"),
        ("application/json", "json"),
        ("application/x-npz", "npz"),
        ("application/dicom", "dicom-seg"),
        ("application/*", "json"),
        ("text/html, application/json;q=0.9, */*;q=0.1", "json"),
        ("image/png;q=0.1, application/json;q=0.5", "json"),
        ("image/png;q=0, application/json", "json"),
        ("IMAGE/PNG", "png"),
        ("image/png;q=junk, application/json", "json"),
    ],
)
def test_accept_chooses_the_output(accept: str, output: str) -> None:
    assert output_for(accept) == output


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "image/png;q=0", "*/*;q=0", ";;;"])
def test_accept_that_takes_nothing_is_406(accept: str) -> None:
    with pytest.raises(Problem) as caught:
        output_for(accept)
    assert caught.value.status == 406


def test_weights_outside_their_range_are_clipped() -> None:
    assert preferences("a;q=7, b;q=-1") == [("a", 1.0), ("b", 0.0)]


def test_the_query_beats_accept(client: TestClient) -> None:
    response = client.post("/v1/segment?output=png", files={"image": encoded()}, headers={"Accept": "application/json"})
    assert response.headers["content-type"] == "image/png"
    response = client.post("/v1/segment", files={"image": encoded()}, headers={"Accept": "application/json"})
    assert response.json()["size"] == [48, 80]
    problem(client.post("/v1/segment", files={"image": encoded()}, headers={"Accept": "text/html"}), 406, "not-acceptable")


def test_json_is_compressed_where_the_client_takes_it(client: TestClient) -> None:
    def post(encoding: str) -> bytes:
        with client.stream(
            "POST", "/v1/segment?output=json", files={"image": encoded()}, headers={"Accept-Encoding": encoding}
        ) as response:
            assert ("gzip" in response.headers.get("content-encoding", "")) == ("gzip" in encoding and "q=0" not in encoding)
            assert "accept-encoding" in response.headers["vary"].lower()
            return b"".join(response.iter_raw())

    plain, packed = post("identity"), post("gzip")
    assert json.loads(gzip.decompress(packed)) == json.loads(plain)
    assert len(packed) < len(plain)
    assert post("gzip;q=0") == plain


def test_a_compressed_body_is_refused(client: TestClient) -> None:
    response = client.post(
        "/v1/segment", content=gzip.compress(encoded()), headers={"Content-Type": "image/png", "Content-Encoding": "gzip"}
    )
    problem(response, 415, "unsupported-encoding")


def test_the_etag_knows_the_image_the_model_and_the_wish(client: TestClient) -> None:
    def tag(path: str = "/v1/segment", image: bytes = encoded(), **headers: str) -> str:
        response = client.post(path, files={"image": image}, headers=headers)
        assert response.status_code == 200
        return response.headers["etag"]

    first = tag()
    assert first == tag()
    others = {
        tag("/v1/segment?threshold=0.4"),
        tag("/v1/segment?output=json"),
        tag("/v1/models/zones/segment"),
        tag(image=encoded(".jpg")),
    }
    assert len(others | {first}) == 5
    response = client.post("/v1/segment", files={"image": encoded()}, headers={"If-None-Match": f'"x", {first}'})
    problem(response, 412, "same-answer")
    assert tag(**{"If-None-Match": '"other"'}) == first


def test_a_star_matches_any_tag() -> None:
    assert matches("*", 'W/"a"')
    assert matches('"a"', 'W/"a"')
    assert not matches("", 'W/"a"')


def test_models_are_served_by_name(client: TestClient, folders: dict[str, Path]) -> None:
    assert client.get("/v1/models").json() == {"default": "default", "models": ["default", "zones"]}
    card = client.get("/v1/models/zones").json()
    assert card["input"]["classes"] == ["zone", "core"]
    response = client.post("/v1/models/zones/segment", files={"image": encoded()})
    assert response.headers["x-model-id"] == card["id"]
    expected = Predictor.open(folders["zones"], "cpu").predict(PIXELS).mask()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.content))), expected)
    problem(client.get("/v1/models/none"), 404, "no-such-model")
    problem(client.post("/v1/models/none/segment", files={"image": encoded()}), 404, "no-such-model")
    problem(client.post("/v1/models/zones/segment?output=probability", files={"image": encoded()}), 422, "bad-parameter")
    problem(
        client.post("/v1/models/zones/segment?output=json&disagreement=true", files={"image": encoded()}), 422, "bad-parameter"
    )


def many(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", file) for file in files]


def test_a_batch_answers_a_zip_with_every_image_or_why_not(client: TestClient, folders: dict[str, Path]) -> None:
    small = PIXELS[:30, :30]
    response = client.post(
        "/v1/segment/batch",
        files=many(
            ("a.png", encoded()),
            ("../../b.png", encoded(pixels=small)),
            ("a.png", encoded(".jpg")),
            ("c.txt", b"junk"),
            ("\N{GREEK SMALL LETTER ALPHA} d.png", encoded()[:50]),
        ),
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as packed:
        assert packed.testzip() is None
        index = json.loads(packed.read("index.json"))
        names = ["a.png", "b.png", "a-2.png", "c.txt", "\N{GREEK SMALL LETTER ALPHA} d.png"]
        assert [entry["name"] for entry in index["images"]] == names
        assert packed.namelist() == ["a.png", "b.png", "a-2.png", "index.json"]
        mask = np.asarray(Image.open(io.BytesIO(packed.read(index["images"][1]["file"]))))
        expected = Predictor.open(folders["first"], "cpu").predict(small).mask(0.5)
        np.testing.assert_array_equal(mask, expected.astype(bool))
        assert [entry["error"] and entry["error"]["status"] for entry in index["images"]] == [None, None, None, 415, 400]
        assert index["images"][3]["file"] is None


def test_a_batch_answers_json_lines_in_order(client: TestClient) -> None:
    files = [(f"{i}.png", encoded(pixels=PIXELS[: 20 + i])) for i in range(10)]
    response = client.post(
        "/v1/segment/batch?output=json", files=many(*files, ("bad", b"x")), headers={"Accept-Encoding": "gzip"}
    )
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["name"] for line in lines] == [name for name, _ in files] + ["bad"]
    assert [line["size"][0] for line in lines[:-1]] == [20 + i for i in range(10)]
    assert lines[-1]["error"]["code"] == "unsupported-image"


def test_a_batch_has_limits_of_its_own(client: TestClient) -> None:
    problem(client.post("/v1/segment/batch", files=many(*[("a", b"x")] * 13)), 400, "bad-request")
    problem(client.post("/v1/segment/batch", files=many(*[("a", bytes(250_000))] * 9)), 413, "body-too-large")
    problem(
        client.post("/v1/segment/batch", content=encoded(), headers={"Content-Type": "image/png"}),
        415,
        "unsupported-media-type",
    )
    problem(client.post("/v1/segment/batch", files={"other": b"x"}), 400, "no-image")
    response = client.post("/v1/segment/batch?output=json", files=many(("big", bytes(300_001)), ("ok.png", encoded())))
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert lines[0]["error"]["status"] == 413
    assert lines[1]["size"] == [48, 80]


pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")


def ramp(height: int = 40, width: int = 64, turned: bool = False) -> np.ndarray:
    values = np.linspace(100, 4000, width)[None].repeat(height, axis=0)
    return (values[:, ::-1] if turned else values).astype(np.uint16)


def test_a_16_bit_slice_is_scaled_over_its_own_range(client: TestClient) -> None:
    response = client.post("/v1/segment", content=dicom_file(1, ramp()), headers={"Content-Type": "application/dicom"})
    mask = np.asarray(Image.open(io.BytesIO(response.content)))
    assert mask.shape == (40, 64)
    assert not mask[:, :30].any()
    assert mask[:, 34:].all()


def test_monochrome1_rescale_and_window_are_honoured(client: TestClient) -> None:
    def mask(**attributes: object) -> np.ndarray:
        response = client.post("/v1/segment", files={"image": dicom_file(1, ramp(), **attributes)})
        assert response.status_code == 200, response.text
        return np.asarray(Image.open(io.BytesIO(response.content)))

    np.testing.assert_array_equal(mask(PhotometricInterpretation="MONOCHROME1"), mask()[:, ::-1])
    # A window around the top third of the range: less of the slice is bright.
    narrow = mask(WindowCenter=3400, WindowWidth=1000)
    assert 0 < narrow.sum() < 0.5 * mask().sum()
    assert mask(RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=5800, WindowWidth=2000).sum() == narrow.sum()


def test_a_dicom_seg_refers_to_its_source(client: TestClient) -> None:
    response = client.post("/v1/segment?output=dicom-seg", files={"image": dicom_file(3, ramp())})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/dicom"
    seg = pydicom.dcmread(io.BytesIO(response.content))
    assert seg.Modality == "SEG"
    assert (seg.PatientID, seg.StudyInstanceUID, seg.FrameOfReferenceUID) == ("id-7", "1.2.3", "1.2.3.9")
    assert seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.3"
    assert seg.SegmentSequence[0].SegmentLabel == "lesion"
    png = client.post("/v1/segment", files={"image": dicom_file(3, ramp())})
    np.testing.assert_array_equal(seg.pixel_array.squeeze().astype(bool), np.asarray(Image.open(io.BytesIO(png.content))))


def test_a_series_becomes_one_seg_with_every_slice_in_its_place(client: TestClient) -> None:
    slices = [(f"{i}.dcm", dicom_file(i, ramp(turned=i % 2 == 1))) for i in (1, 2, 3, 4)]
    response = client.post("/v1/segment/batch?output=dicom-seg", files=many(*slices))
    assert response.status_code == 200, response.text
    seg = pydicom.dcmread(io.BytesIO(response.content))
    assert seg.NumberOfFrames == 4
    for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        z = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        bright_on_the_left = frame[:, :20].all()
        assert bright_on_the_left == (round(z / 3) % 2 == 1)
        source = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert source == f"1.2.3.4.{round(z / 3)}"
    again = client.post("/v1/segment/batch?output=dicom-seg", files=many(*slices))
    assert pydicom.dcmread(io.BytesIO(again.content)).SOPInstanceUID == seg.SOPInstanceUID


def test_what_cannot_be_a_seg_is_refused_by_name(client: TestClient) -> None:
    def refused(*files: tuple[str, bytes]) -> str:
        return str(
            problem(client.post("/v1/segment/batch?output=dicom-seg", files=many(*files)), 415, "unsupported-image")["detail"]
        )

    one = ("1", dicom_file(1, ramp()))
    assert "DICOM" in refused(("a.png", encoded()))
    assert "SeriesInstanceUID" in refused(one, ("2", dicom_file(2, ramp(), series="1.2.3.5")))
    assert "Rows" in refused(one, ("2", dicom_file(2, ramp(48))))
    assert "one slice" in refused(one, one)


def test_a_multi_frame_file_gives_a_seg_and_is_refused_elsewhere(client: TestClient) -> None:
    frames = np.stack([ramp(), ramp(turned=True)])
    data = dicom_file(1, ramp(), NumberOfFrames=2, PixelData=frames.astype("<u2").tobytes())
    body = problem(client.post("/v1/segment", files={"image": data}), 415, "unsupported-image")
    assert "2 frames" in str(body["detail"])


def test_too_many_dicom_pixels_are_refused_by_the_header(client: TestClient) -> None:
    problem(client.post("/v1/segment", files={"image": dicom_file(1, ramp(), Rows=2000, Columns=2000)}), 413, "image-too-large")
    problem(client.post("/v1/segment", files={"image": dicom_file(1, ramp())[:-100]}), 400, "malformed-image")


def test_a_deflated_file_is_refused_before_it_is_inflated(client: TestClient) -> None:
    dataset = pydicom.dcmread(io.BytesIO(dicom_file(1, ramp(), Rows=8000, Columns=8000, PixelData=bytes(2 * 8000 * 8000))))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    bomb = file.getvalue()
    assert len(bomb) < 200_000
    tracemalloc.start()
    started = time.perf_counter()
    body = problem(client.post("/v1/segment", files={"image": bomb}), 415, "unsupported-image")
    seconds, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "deflated" in str(body["detail"])
    assert peak < 20 * 2**20
    assert seconds < 1


def test_a_multi_frame_file_becomes_one_seg_frame_by_frame(client: TestClient) -> None:
    frames = np.stack([ramp(), ramp(), ramp(turned=True)])
    response = client.post("/v1/segment?output=dicom-seg", files={"image": enhanced_file(frames)})
    assert response.status_code == 200, response.text
    seg = pydicom.dcmread(io.BytesIO(response.content))
    bright_on_the_left = {
        float(group.PlanePositionSequence[0].ImagePositionPatient[2]): bool(frame[:, :20].all())
        for frame, group in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True)
    }
    assert bright_on_the_left == {0.0: False, 3.0: False, 6.0: True}


def test_colour_and_grey_tiffs_are_read(client: TestClient) -> None:
    grey = cv2.imencode(".tif", np.full((20, 30), 60_000, np.uint16))[1].tobytes()
    answer = client.post("/v1/segment?output=json", files={"image": grey}).json()
    assert answer["classes"][0]["area"] == 600
