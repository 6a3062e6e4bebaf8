"""The node with a real Orthanc: images in, segmentations in the same study, read back as every viewer reads them."""

from __future__ import annotations

import gc
import io
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import node_kills
import numpy as np
import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("highdicom")
import highdicom as hd
import pydicom
from artifacts import write_artifact
from conftest import DATA
from dicom_images import cine, complaints, image
from nodes import send, wait_for
from orthancs import ROOT, NodeProcess, Orthanc, archive, free_port, listening
from serving import running as running_service

pytestmark = [
    pytest.mark.orthanc,
    # pynetdicom leaves the socket of a connection that was refused to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
OPTIONS = {"ignore_spatial_locations": True, "combine_segments": True}


@pytest.fixture(autouse=True)
def _sockets_of_refused_connections() -> Iterator[None]:
    """Collected here, where they are expected."""
    yield
    gc.collect()


def renamed(dataset: pydicom.Dataset, study: str, series: str, instance: str) -> pydicom.Dataset:
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = study, series, instance
    dataset.file_meta.MediaStorageSOPInstanceUID = instance
    return dataset


def made_series() -> dict[str, list[pydicom.Dataset]]:
    """Made up: an endoscopy of four pictures, an ultrasound cine, and a CT of six slices, each in a study of its own."""
    return {
        "endoscopy": [renamed(image("endoscopy", i), "1.2.8.1", "1.2.8.1.1", f"1.2.8.1.1.{i}") for i in range(1, 5)],
        "cine": [renamed(cine("ultrasound cine", 5), "1.2.8.2", "1.2.8.2.1", "1.2.8.2.1.1")],
        "ct": [renamed(image("ct", i), "1.2.8.3", "1.2.8.3.1", f"1.2.8.3.1.{i}") for i in range(1, 7)],
    }


def prostates(folder: Path) -> dict[str, list[pydicom.Dataset]]:
    """Real MR series of three patients, where the data is there; every sixth slice, for the sake of time."""
    return {
        patient.name: [pydicom.dcmread(path) for path in sorted(patient.glob("*.dcm"))[::6]]
        for patient in sorted(folder.glob("prostate3t/Prostate3T-03-*"))[:3]
    }


def file_of(dataset: pydicom.Dataset) -> bytes:
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[tuple[Orthanc, NodeProcess]]:
    """Orthanc that routes to a node, which stores back into Orthanc."""
    write_artifact(tmp_path / "artifact")
    port = free_port()
    with archive(tmp_path / "orthanc", port, scripts=("gazeseg.lua", "route.lua")) as orthanc:
        node = NodeProcess(
            [str(tmp_path / "artifact"), "--port", str(port), "--to", orthanc.web, "--from", "ORTHANC", "--quiet", "2",
             "--spool", str(tmp_path / "spool"), "--reports"],
            tmp_path / "node.log",
        )  # fmt: skip
        node.start()
        try:
            listening(port, node.process, node.log)
            yield orthanc, node
        finally:
            node.kill(signal.SIGTERM)


def test_every_series_comes_back_with_one_segmentation_in_its_study(house: tuple[Orthanc, NodeProcess], tmp_path: Path) -> None:
    orthanc, _node = house
    series = made_series()
    series |= prostates(DATA)
    sent = [dataset for group in series.values() for dataset in group]
    assert send(orthanc.dicom_port, sent, "MODALITY", "ORTHANC") == [0] * len(sent)
    wait_for(lambda: len(orthanc.instances("SEG")) >= len(series) and len(orthanc.instances("SR")) >= len(series), 100)
    found = {}
    for item in orthanc.instances("SEG"):
        content = orthanc.file(item["id"])
        assert complaints(content, tmp_path) == []
        seg = hd.seg.segread(io.BytesIO(content))
        found[str(seg.SourceImageSequence[0].ReferencedSOPInstanceUID)] = seg
        root = f"{orthanc.web}/studies/{seg.StudyInstanceUID}/series/{seg.SeriesInstanceUID}/instances/{seg.SOPInstanceUID}"
        frame = httpx.get(root + "/frames/1", headers={"Accept": 'multipart/related; type="application/octet-stream"'})
        assert frame.status_code == 200
        assert httpx.get(root + "/metadata", headers={"Accept": "application/dicom+json"}).status_code == 200
    assert len(found) == len(orthanc.instances("SEG")) == len(series)
    with running_service(tmp_path / "artifact", tmp_path) as service:
        for group in series.values():
            first = next(str(d.SOPInstanceUID) for d in group if str(d.SOPInstanceUID) in found)
            seg = found[first]
            assert seg.StudyInstanceUID == group[0].StudyInstanceUID
            for dataset in group[:2]:
                answer = httpx.post(
                    service.url + "/v1/segment?output=dicom-seg", content=file_of(dataset),
                    headers={"Content-Type": "application/dicom"}, timeout=60,
                )  # fmt: skip
                alone, uid = hd.seg.segread(io.BytesIO(answer.content)), str(dataset.SOPInstanceUID)
                numbers = range(1, int(dataset.get("NumberOfFrames") or 1) + 1)
                if len(numbers) > 1:
                    pairs = [each.get_pixels_by_source_frame(uid, list(numbers), **OPTIONS) for each in (seg, alone)]
                else:
                    pairs = [each.get_pixels_by_source_instance([uid], **OPTIONS) for each in (seg, alone)]
                np.testing.assert_array_equal(*pairs)
    assert all(len(orthanc.get("/studies/" + study)["Series"]) == 3 for study in orthanc.get("/studies"))


def test_images_that_came_while_the_node_was_down_are_routed_later(house: tuple[Orthanc, NodeProcess], tmp_path: Path) -> None:
    orthanc, node = house
    node.kill()
    sent = made_series()["endoscopy"]
    send(orthanc.dicom_port, sent[:2], "MODALITY", "ORTHANC")
    orthanc.sweep()
    orthanc.kill()
    orthanc.start()
    send(orthanc.dicom_port, sent[2:], "MODALITY", "ORTHANC")
    node.start()
    listening(orthanc.node_port, node.process, node.log)
    orthanc.sweep()
    wait_for(lambda: frames_of(orthanc) == [4], 60)


def frames_of(orthanc: Orthanc) -> list[int]:
    found = [pydicom.dcmread(io.BytesIO(orthanc.file(item["id"]))) for item in orthanc.instances("SEG")]
    return [int(seg.NumberOfFrames) for seg in found]


def test_a_late_picture_replaces_the_segmentation_in_the_archive(house: tuple[Orthanc, NodeProcess]) -> None:
    orthanc, _ = house
    sent = made_series()["endoscopy"]
    send(orthanc.node_port, sent[:3], "ORTHANC")
    wait_for(lambda: frames_of(orthanc) == [3], 60)
    send(orthanc.node_port, sent[3:], "ORTHANC")
    wait_for(lambda: frames_of(orthanc) == [4], 60)


def test_nothing_is_lost_or_done_twice_while_everybody_is_killed_in_turn(tmp_path: Path) -> None:
    outcome = node_kills.run(tmp_path, count=40, kills=4, pause=2.0, limit=150)
    assert outcome.kills == {"node": 2, "service": 1, "orthanc": 1}
    assert (outcome.missing, outcome.twice, outcome.wrong, outcome.dead) == (0, 0, 0, 0), (tmp_path / "node.log").read_text()
    assert outcome.results == 40


def is_ready(url: str) -> bool:
    try:
        return httpx.get(url + "/readyz", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def metadata_of(orthanc: Orthanc, series: str) -> dict[str, str]:
    """The script's own metadata of a series: an error (1031), and with how many images it was done (1032)."""
    return {
        number: httpx.get(f"{orthanc.url}/series/{series}/metadata/{number}").text
        for number in ("1031", "1032")
        if httpx.get(f"{orthanc.url}/series/{series}/metadata/{number}").status_code == 200
    }


def test_the_hook_without_a_node_loses_no_image_and_keeps_errors(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    made, port = made_series(), free_port()
    service = node_kills.Service(tmp_path / "artifact", tmp_path / "service.log")
    environment = {"GAZESEG_URL": f"http://127.0.0.1:{service.port}", "GAZESEG_MODALITIES": "ES,US"}
    with archive(tmp_path / "orthanc", port, scripts=("gazeseg.lua", "hook.lua"), environment=environment) as orthanc:
        send(orthanc.dicom_port, made["endoscopy"], "MODALITY", "ORTHANC")
        orthanc.sweep()
        assert orthanc.instances("SEG") == []  # the service is away, so the series waits
        orthanc.kill()
        orthanc.start()
        service.start()
        try:
            listening(service.port, service.process, service.log)
            wait_for(lambda: is_ready(environment["GAZESEG_URL"]))
            send(orthanc.dicom_port, [*made["cine"], *made["ct"]], "MODALITY", "ORTHANC")

            def swept(count: int) -> bool:
                orthanc.sweep()
                return len(orthanc.instances("SEG")) == count

            wait_for(lambda: swept(2), 90)
            assert sorted(frames_of(orthanc)) == [4, 5]
            assert swept(2)  # what is done is not done again, and its own results make no loop
            send(orthanc.dicom_port, [renamed(image("endoscopy", 9), "1.2.8.1", "1.2.8.1.1", "1.2.8.1.1.9")], "M", "ORTHANC")
            wait_for(lambda: swept(3) or sorted(frames_of(orthanc)) == [5, 5], 60)
            odd = [image("endoscopy", 1, Rows=0), image("endoscopy", 2, Rows=0)]
            for number, dataset in enumerate(odd):
                orthanc.put(file_of(renamed(dataset, "1.2.8.7", "1.2.8.7.1", f"1.2.8.7.1.{number}")))
            query = {"Level": "Series", "Query": {"SeriesInstanceUID": "1.2.8.7.1"}}
            (refused,) = orthanc.ask("POST", "/tools/find", json=query).json()
            wait_for(lambda: (orthanc.sweep(), "1032" in metadata_of(orthanc, refused))[1], 60)
            assert "refuses" in metadata_of(orthanc, refused)["1031"]
        finally:
            service.kill()


def test_the_deployed_configuration_routes_and_takes_results_with_a_password(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact")
    text = (ROOT / "deploy" / "orthanc" / "orthanc.json").read_text()
    deployed = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.M))
    port = free_port()
    # What differs on this machine: who listens where, and where the scripts lie.
    for name in ("DicomModalities", "LuaScripts", "StableAge", "RemoteAccessAllowed"):
        deployed.pop(name)
    (tmp_path / "password").write_text("geheim\n")
    environment = {"ORTHANC_PASSWORD": "anders", "GAZESEG_ORTHANC_PASSWORD": "geheim"}
    options = {"changes": deployed, "environment": environment, "user": ("admin", "anders")}
    with archive(tmp_path / "orthanc", port, scripts=("gazeseg.lua", "route.lua"), **options) as orthanc:
        node = NodeProcess(
            [str(tmp_path / "artifact"), "--port", str(port), "--to", orthanc.web, "--from", "ORTHANC", "--quiet", "1",
             "--spool", str(tmp_path / "spool"), "--to-user", "gazeseg", "--to-password-file", str(tmp_path / "password")],
            tmp_path / "node.log",
        )  # fmt: skip
        node.start()
        try:
            listening(port, node.process, node.log)
            send(orthanc.dicom_port, made_series()["endoscopy"], "MODALITY", "ORTHANC")
            wait_for(lambda: frames_of(orthanc) == [4], 60)
        finally:
            assert node.kill(signal.SIGTERM) == 0
