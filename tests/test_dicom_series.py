"""A series is one: what differs is named, with the slice in which it does, and without its value."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from dicoms import dicom_file, enhanced_file

from gazeseg_serve.errors import MalformedImage, UnsupportedImage

pydicom = pytest.importorskip("pydicom")
from gazeseg_serve.dicom_series import check_series  # noqa: E402

PIXELS = np.zeros((4, 5), np.uint16)


def slices(count: int = 3, odd: int = 1, **change: Any) -> list[Any]:
    """Slices of one series, but for `change` in the one at `odd`."""
    return [
        pydicom.dcmread(io.BytesIO(dicom_file(number, PIXELS, **(change if number == odd + 1 else {}))))
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("odd", [1, 2])
@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("StudyInstanceUID", "1.2.99"),
        ("SeriesInstanceUID", "1.2.98"),
        ("FrameOfReferenceUID", "1.2.97"),
        ("FrameOfReferenceUID", None),
        ("PatientID", "id-8"),
        ("PatientID", None),
        ("PatientName", "Roe^Richard"),
        ("PatientBirthDate", "19700101"),
        ("PatientSex", "F"),
        ("IssuerOfPatientID", "ward"),
        ("Modality", "CT"),
        ("SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"),
        ("PhotometricInterpretation", "MONOCHROME1"),
        ("Rows", 5),
        ("Columns", 4),
        ("PixelSpacing", [0.5, 0.502]),
        ("PixelSpacing", None),
        ("ImageOrientationPatient", [1, 0, 0, 0, 0, 1]),
        ("ImageOrientationPatient", [0.998, 0.06, 0, 0, 1, 0]),
        ("SliceThickness", 3.1),
        ("SpacingBetweenSlices", 2),
    ],
)
def test_what_differs_is_named_with_its_slice(attribute: str, value: Any, odd: int) -> None:
    with pytest.raises(UnsupportedImage, match=rf"^slice {odd + 1} and slice 1 differ in {attribute};") as raised:
        check_series(slices(odd=odd, **{attribute: value}))
    assert "Roe" not in str(raised.value)
    with pytest.raises(UnsupportedImage, match=rf"^{'bc'[odd - 1]} and a differ in {attribute};"):
        check_series(slices(odd=odd, **{attribute: value}), ["a", "b", "c"])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"PatientName": "Doe^Jane^^"},
        {"PixelSpacing": [0.5, 0.5004]},
        {"ImageOrientationPatient": [0.9999, 0.0005, 0, 0, 1, 0]},
        {"SliceThickness": 3.0009},
        {"ImagePositionPatient": [1, 2, 70]},
        {"InstanceNumber": 70},
    ],
)
def test_what_scanners_round_or_what_moves_along_a_series_agrees(change: dict[str, Any]) -> None:
    check_series(slices(**change))


def test_what_none_has_agrees() -> None:
    found = slices()
    for one in found:
        one.SliceThickness = None
        del one.FrameOfReferenceUID
    check_series(found)


def test_one_file_of_many_frames_is_a_series_alone() -> None:
    many = pydicom.dcmread(io.BytesIO(enhanced_file(np.zeros((3, 4, 5), np.uint16))))
    check_series([many])
    with pytest.raises(UnsupportedImage, match="slice 3 has many frames"):
        check_series([*slices(2), many])


def test_a_slice_sent_twice_is_named() -> None:
    one, two = slices(2)
    with pytest.raises(UnsupportedImage, match=r"slice 3 and slice 1 are one slice"):
        check_series([one, two, one])


def test_a_value_that_is_no_number_is_a_broken_header() -> None:
    found = slices(2)
    found[1]["SliceThickness"] = pydicom.DataElement(0x00180050, "LO", "thick")
    with pytest.raises(MalformedImage) as raised:
        check_series(found)
    assert "thick" not in str(raised.value)
