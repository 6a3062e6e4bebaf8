"""DICOM out of the service: segmentations, reports, and what is refused outside the intended use."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("highdicom")
import highdicom as hd
import pydicom
from artifacts import write_artifact
from dicom_images import CINES, KINDS, cine, complaints, image
from serving import problem, serve, wait_until_ready
from starlette.testclient import TestClient

from gazeseg_serve.clinical import Clinical, IntendedUse
from gazeseg_serve.describe import described
from gazeseg_serve.service.settings import Settings

COLOUR = IntendedUse("colour images of the bowel", ("ES",), "colour")
DICOM = {"Content-Type": "application/dicom"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folders = {name: tmp_path_factory.mktemp(name) for name in ("bowel", "any")}
    described(write_artifact(folders["bowel"]), Clinical(COLOUR)).save(folders["bowel"])
    write_artifact(folders["any"])
    with serve(Settings(artifact=folders["bowel"], models={"any": folders["any"]}, device="cpu")) as client:
        wait_until_ready(client)
        yield client


def file_of(dataset: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def mask_of(client: TestClient, content: bytes) -> np.ndarray:
    answer = client.post("/v1/models/any/segment?output=npz", content=content, headers=DICOM)
    with np.load(io.BytesIO(answer.content)) as stored:
        return np.asarray(stored["mask"])


@pytest.mark.parametrize("output", ["png", "json", "overlay", "npz", "dicom-seg", "dicom-sr"])
def test_what_contradicts_the_intended_use_is_refused_unless_forced(client: TestClient, output: str) -> None:
    content = file_of(image("mr"))
    refused = client.post(f"/v1/segment?output={output}", content=content, headers=DICOM)
    detail = problem(refused, 422, "outside-intended-use")["detail"]
    assert "Modality" in str(detail)
    assert "bowel" in str(detail)
    assert client.post(f"/v1/segment?output={output}&force=true", content=content, headers=DICOM).status_code == 200
    assert client.post(f"/v1/models/any/segment?output={output}", content=content, headers=DICOM).status_code == 200
    fitting = client.post(f"/v1/segment?output={output}", content=file_of(image("endoscopy")), headers=DICOM)
    assert fitting.status_code == 200


def test_a_forced_result_records_it_and_another_tag(client: TestClient) -> None:
    content = file_of(image("mr"))
    answer = client.post("/v1/segment?output=dicom-seg&force=true", content=content, headers=DICOM)
    assert pydicom.dcmread(io.BytesIO(answer.content)).SeriesDescription.startswith("OUTSIDE INTENDED USE")
    fitting = file_of(image("endoscopy"))
    plain = client.post("/v1/segment?output=dicom-seg", content=fitting, headers=DICOM)
    forced = client.post("/v1/segment?output=dicom-seg&force=true", content=fitting, headers=DICOM)
    assert plain.content == forced.content  # there was nothing to force


def test_a_refused_slice_refuses_the_series_and_not_the_batch(client: TestClient) -> None:
    files = [("image", (f"{i}.dcm", file_of(image(kind, i)))) for i, kind in enumerate(("endoscopy", "mr"), start=1)]
    outside = [("image", (f"{i}.dcm", file_of(image("mr", i)))) for i in (1, 2)]
    problem(client.post("/v1/segment/batch?output=dicom-seg", files=outside), 422, "outside-intended-use")
    lines = client.post("/v1/segment/batch?output=json", files=files).text.splitlines()
    assert len(lines) == 2
    assert sum("outside-intended-use" in line for line in lines) == 1


@pytest.mark.parametrize("kind", [*KINDS, *CINES])
def test_every_kind_is_answered_with_a_valid_segmentation_and_report(client: TestClient, kind: str, tmp_path: Path) -> None:
    content = file_of(cine(kind, 2) if kind in CINES else image(kind))
    made = client.post("/v1/models/any/segment?output=dicom-seg", content=content, headers=DICOM)
    assert made.headers["content-type"] == "application/dicom"
    assert complaints(made.content, tmp_path) == []
    seg = hd.seg.segread(io.BytesIO(made.content))
    if kind in KINDS:
        found = seg.get_pixels_by_source_instance(["1.2.3.4.1"], ignore_spatial_locations=True, combine_segments=True)
        np.testing.assert_array_equal(found[0], mask_of(client, content))
    assert seg.NumberOfFrames == (2 if kind in CINES else 1)
    report = client.post("/v1/models/any/segment?output=dicom-sr", content=content, headers=DICOM)
    assert complaints(report.content, tmp_path) == []
    assert seg.SOPInstanceUID.encode() in report.content


def test_a_series_without_a_place_is_one_segmentation_the_same_in_any_order(client: TestClient) -> None:
    files = [("image", (f"{i}.dcm", file_of(image("endoscopy", i)))) for i in (2, 1, 3)]
    made = client.post("/v1/segment/batch?output=dicom-seg", files=files)
    assert made.status_code == 200, made.text
    assert client.post("/v1/segment/batch?output=dicom-seg", files=files[::-1]).content == made.content
    seg = hd.seg.segread(io.BytesIO(made.content))
    for number, (_, (_, content)) in zip((2, 1, 3), files, strict=True):
        uid = f"1.2.3.4.{number}"
        found = seg.get_pixels_by_source_instance([uid], ignore_spatial_locations=True, combine_segments=True)
        np.testing.assert_array_equal(found[0], mask_of(client, content))


def test_the_model_says_what_it_is_for(client: TestClient) -> None:
    facts = client.get("/v1/model").json()
    assert facts["intended_use"]["modalities"] == ["ES"]
    assert len(facts["codes"]) == 1


@pytest.mark.parametrize("output", ["png", "json", "dicom-seg", "dicom-sr"])
def test_a_file_without_its_preamble_is_treated_as_it_is_with_it(client: TestClient, output: str) -> None:
    """Also where its intended use is looked at: cutting 132 bytes off gets nobody round it."""
    content = file_of(image("mr"))
    refused = client.post(f"/v1/segment?output={output}", content=content[132:], headers=DICOM)
    problem(refused, 422, "outside-intended-use")
    whole, cut = (
        client.post(f"/v1/models/any/segment?output={output}", content=data, headers=DICOM) for data in (content, content[132:])
    )
    assert (whole.status_code, cut.status_code) == (200, 200)
    assert output == "json" or whole.content == cut.content  # JSON holds times
