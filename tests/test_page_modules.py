"""The page's own reading of run lengths, 16-bit PNGs and DICOM headers, against libraries that do the same."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from artifacts import write_artifact
from browser import Browser, browsing
from dicoms import dicom_file, enhanced_file

pytest.importorskip("bentoml")
from serving import Running, running

from gazeseg_serve.outputs import run_lengths
from gazeseg_serve.png import encode_map, encode_png

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    with running(folder, tmp_path_factory.mktemp("service")) as service:
        yield service


async def computed(tab: Browser, module: str, expression: str, data: object) -> Any:
    """The value of `expression`, in which `m` is the page's module and `data` this value."""
    return await tab.evaluate(
        f"import('/page/{module}.js').then(async (m) => {{ const data = {json.dumps(data)}; return {expression}; }})"
    )


def masks() -> list[np.ndarray]:
    """Boolean masks of every kind: noise thick and thin, rings, one pixel, nothing, everything, one row, one column."""
    rng = np.random.default_rng(3)
    noise = [rng.random((h, w)) < share for h, w in ((17, 31), (40, 23), (1, 50), (50, 1)) for share in (0.05, 0.4, 0.6, 0.95)]
    ring = np.zeros((60, 80), np.uint8)
    cv2.circle(ring, (40, 30), 25, 1, 3)
    cv2.circle(ring, (40, 30), 5, 1, -1)
    corners = np.kron(np.eye(4, dtype=bool), np.ones((3, 2), bool))
    return [*noise, ring > 0, corners, corners[:, ::-1], np.zeros((5, 9), bool), np.ones((5, 9), bool), np.eye(1, 1) > 0]


def parts(mask: np.ndarray) -> list[dict[str, Any]]:
    """OpenCV's connected components with 8 neighbours."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    found = [{"area": int(area), "box": [int(x), int(y), int(w), int(h)]} for x, y, w, h, area in stats[1:]]
    return sorted(found, key=lambda part: (-part["area"], part["box"]))


def test_labels_and_parts_are_those_of_coco_and_opencv(service: Running, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with browsing(service.url, tmp_path) as tab:
            await tab.until("model", "lesion")
            for mask in masks():
                rle = run_lengths(mask)
                found = await computed(tab, "measure", "m.partsOf(data)", rle)
                assert sorted(found, key=lambda part: (-part["area"], part["box"])) == parts(mask)
                assert [part["area"] for part in found] == sorted((part["area"] for part in found), reverse=True)
                answer = {"size": list(mask.shape), "classes": [{"label": 7, "rle": rle}]}
                values = await computed(tab, "measure", "[...m.labels(data)]", answer)
                np.testing.assert_array_equal(np.array(values).reshape(mask.shape), 7 * mask)

    asyncio.run(scenario())


def test_maps_are_read_at_their_full_depth(service: Running, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    smooth = cv2.resize(rng.random((4, 5), dtype=np.float32), (61, 47))  # every filter of PNG is worth while on some row
    unfiltered = (rng.random((3, 7)) * 255).astype(np.uint8)
    filtered = [cv2.imencode(".png", np.rint(smooth * 65535).astype(np.uint16), [cv2.IMWRITE_PNG_FILTER, kind])[1].tobytes()
                for kind in (cv2.IMWRITE_PNG_FILTER_SUB, cv2.IMWRITE_PNG_FILTER_UP, cv2.IMWRITE_PNG_FILTER_AVG,
                             cv2.IMWRITE_PNG_FILTER_PAETH, cv2.IMWRITE_PNG_ALL_FILTERS)]  # fmt: skip

    async def scenario() -> None:
        async with browsing(service.url, tmp_path) as tab:
            await tab.until("model", "lesion")
            for png in [
                encode_map(smooth),
                encode_map(smooth[:1]),
                encode_map(smooth[:, :1]),
                encode_png(unfiltered),
                *filtered,
            ]:
                expression = "m.greyPng(Uint8Array.from(atob(data), (c) => c.charCodeAt(0)).buffer).then((p) => [...p.values])"
                values = await computed(tab, "png", expression, base64.b64encode(png).decode())
                expected = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
                scale = 257 if expected.dtype == np.uint8 else 1
                np.testing.assert_array_equal(values, expected.astype(int).ravel() * scale)

    asyncio.run(scenario())


def files() -> dict[str, tuple[bytes, dict[str, Any] | None]]:
    """DICOM files by what is odd in them, and what of the header the page should say."""
    import pydicom
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence
    from pydicom.uid import ImplicitVRLittleEndian

    pixels = np.zeros((4, 6), np.uint16)
    plain = {"series": "1.2.3.4", "modality": "MR", "frames": 1, "place": 6, "spacing": [0.5, 0.25], "detector": False}
    explicit = dicom_file(2, pixels, PixelSpacing=[0.5, 0.25])
    implicit = pydicom.dcmread(io.BytesIO(explicit))
    implicit.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    icon = pydicom.dcmread(io.BytesIO(explicit))
    item = Dataset()
    item.Rows = item.Columns = 2
    item.PixelData = b"\0" * 4
    item["PixelData"].VR = "OB"
    icon.ReferencedImageSequence = icon.IconImageSequence = Sequence([item])
    icon["ReferencedImageSequence"].is_undefined_length = True
    icon["ReferencedImageSequence"].value[0].is_undefined_length_sequence_item = True
    plates = dicom_file(2, pixels, ImagerPixelSpacing=[0.2, 0.2], Modality="CR", PixelSpacing=None)
    tilted = dicom_file(3, pixels, PixelSpacing=[0.5, 0.25], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])

    def written(dataset: Any) -> bytes:
        file = io.BytesIO()
        pydicom.dcmwrite(file, dataset, enforce_file_format=True)
        return file.getvalue()

    cut = explicit[: explicit.index(b"\x20\0\x0e\0")]
    frames = {"frames": 3, "place": 1, "spacing": [0.5, 0.5]}
    return {
        "explicit": (explicit, plain),
        "implicit": (written(implicit), plain),
        "sequences with pixels of their own": (written(icon), plain),
        "enhanced": (enhanced_file(np.zeros((3, 4, 6), np.uint16)), plain | frames),
        "at the detector": (plates, plain | {"modality": "CR", "spacing": [0.2, 0.2], "detector": True}),
        "no spacing": (dicom_file(2, pixels, PixelSpacing=None), plain | {"spacing": None, "detector": True}),
        "spacing 0": (dicom_file(2, pixels, PixelSpacing=[0, 0]), plain | {"spacing": None}),
        "sagittal": (tilted, plain | {"place": 0}),
        "cut before its series": (cut, plain | {"series": "", "place": 0, "spacing": None, "detector": True}),
        "no DICOM": (b"\x89PNG" + bytes(200), None),
    }


def test_headers_are_read_as_pydicom_wrote_them(service: Running, tmp_path: Path) -> None:
    pytest.importorskip("pydicom")

    async def scenario() -> None:
        async with browsing(service.url, tmp_path) as tab:
            await tab.until("model", "lesion")
            for name, (data, expected) in files().items():
                expression = "m.dicomHeader(new Blob([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))]))"
                found = await computed(tab, "dicom", expression, base64.b64encode(data).decode())
                assert found == expected, name

    asyncio.run(scenario())
