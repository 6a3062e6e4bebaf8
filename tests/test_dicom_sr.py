"""The TID 1500 report: what an independent reader finds in it."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom")
import highdicom as hd
import pydicom
from artifacts import write_artifact
from dicom_images import CINES, KINDS, cine, complaints, image, masks
from scipy import ndimage

from gazeseg_serve.clinical import known_codes
from gazeseg_serve.contract import Artifact
from gazeseg_serve.dicom_result import ResultOptions
from gazeseg_serve.dicom_seg import segmentation
from gazeseg_serve.dicom_sr import report

WISH = ResultOptions(0.5)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return dataclasses.replace(
        write_artifact(tmp_path_factory.mktemp("two"), classes=("lesion", "prostate")),
        codes=(known_codes("lesion"), known_codes("prostate")),
    )


def value(group: Any, name: str) -> tuple[float, str]:
    found = [m for m in group.get_measurements() if m.name.meaning == name]
    assert len(found) == 1
    return float(found[0].value), found[0].unit.value


@pytest.mark.parametrize("kind", [*KINDS, *CINES])
def test_every_kind_gets_a_valid_report_of_its_areas_and_lesions(kind: str, artifact: Artifact, tmp_path: Path) -> None:
    sources = [cine(kind, 3)] if kind in CINES else [image(kind, i) for i in (3, 1, 2)]
    wanted = masks(3, classes=2)
    content = report(sources, wanted, artifact, WISH)
    assert complaints(content, tmp_path) == []
    seg = pydicom.dcmread(io.BytesIO(segmentation(sources, wanted, artifact, WISH)))
    document = hd.sr.srread(io.BytesIO(content))
    whole = {str(group.finding_type.meaning): group for group in document.content.get_image_measurement_groups()}
    corners = np.ones((3, 3))  # an independent count of connected parts
    counts = [sum(ndimage.label(mask == label, corners)[1] for mask in wanted) for label in (1, 2)]
    assert value(whole["Lesion"], "Number of lesions") == (counts[0], "1")
    assert value(whole["Prostate"], "Number of connected parts") == (counts[1], "1")
    per_pixel, unit = (0.125, "mm2") if kind in KINDS and KINDS[kind][3] else (1, "{pixels}")
    by_frame = dict(enumerate(seg.PerFrameFunctionalGroupsSequence, start=1))
    groups = document.content.get_planar_roi_measurement_groups()
    assert len(groups) == sum(bool((mask == label).any()) for mask in wanted for label in (1, 2))
    for group in groups:
        reference = group.referenced_segmentation_frame[0].ReferencedSOPSequence[0]
        assert reference.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        frame = by_frame[reference.ReferencedFrameNumber]
        label = int(frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        index = (
            source.get("ReferencedFrameNumber")
            or [str(s.SOPInstanceUID) for s in sources].index(source.ReferencedSOPInstanceUID) + 1
        )
        area = np.count_nonzero(wanted[index - 1] == label) * per_pixel
        assert value(group, "Area") == (pytest.approx(area), unit)


def test_the_report_is_of_the_study_and_the_same_twice(artifact: Artifact) -> None:
    sources = [image("mr", i) for i in (1, 2)]
    content = report(sources, masks(2), artifact, WISH)
    assert report(sources[::-1], masks(2)[::-1], artifact, WISH) == content
    found = pydicom.dcmread(io.BytesIO(content))
    assert (found.StudyInstanceUID, found.PatientID, found.Modality) == ("1.2.3", "id-7", "SR")
    evidence = {
        item.ReferencedSOPInstanceUID
        for study in found.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert {"1.2.3.4.1", "1.2.3.4.2"} < evidence


def test_an_empty_mask_is_reported_as_none_found(artifact: Artifact) -> None:
    document = hd.sr.srread(io.BytesIO(report([image("mr")], np.zeros_like(masks(1)), artifact, WISH)))
    assert document.content.get_planar_roi_measurement_groups() == []
    whole = document.content.get_image_measurement_groups()
    assert [m.value for group in whole for m in group.get_measurements()] == [0, 0]
