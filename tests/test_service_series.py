"""DICOM slices, series and multi-frame files: how they are read, and the segmentation that comes back."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dicoms import dicom_file, enhanced_file, ramp
from PIL import Image

pytest.importorskip("bentoml")
pytest.importorskip("highdicom")
import pydicom
from serving import encoded, many, problem, serve, wait_until_ready
from starlette.testclient import TestClient

from gazeseg_serve.service.settings import Settings


@pytest.fixture(scope="module")
def client(folder: Path, zones: Path) -> Iterator[TestClient]:
    settings = Settings(
        artifact=folder,
        models={"zones": zones},
        max_bytes=300_000,
        max_pixels=200_000,
        max_images=12,
        max_batch_bytes=2_000_000,
    )
    with serve(settings) as client:
        wait_until_ready(client)
        yield client


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
    body = problem(client.post("/v1/segment", files={"image": bomb}), 415, "unsupported-image")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "deflated" in str(body["detail"])
    assert peak < 20 * 2**20


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
