"""Whether DICOM files are the slices of one series, and may share one segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .dicom import broken_errors, frame_count
from .errors import MalformedImage, UnsupportedImage

if TYPE_CHECKING:
    from pydicom import Dataset

# What is one in a series (PS3.3, C.7.1.1, C.7.2.1, C.7.3.1, C.7.4.1), as text, and as numbers that scanners round.
_TEXT = (
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "IssuerOfPatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "Modality",
    "SOPClassUID",
    "PhotometricInterpretation",
)
_NUMBERS = ("Rows", "Columns", "PixelSpacing", "ImageOrientationPatient", "SliceThickness", "SpacingBetweenSlices")
_TOLERANCE = 1e-3  # of a millimetre, or of a direction's cosine


def check_series(sources: Sequence[Dataset], names: Sequence[str] = ()) -> None:
    """Raise UnsupportedImage unless the datasets are single-frame slices of one series, or one dataset of any kind.

    names: of the files, for the message; by default "slice 1" and so on, in the order given. An attribute that all lack agrees.
    """
    try:
        _check(sources, names or [f"slice {number}" for number in range(1, len(sources) + 1)])
    except broken_errors() as error:
        raise MalformedImage(f"the DICOM header cannot be read ({type(error).__name__})") from error


def _check(sources: Sequence[Dataset], names: Sequence[str]) -> None:
    if len(sources) < 2:
        return
    seen: dict[str, str] = {}
    for source, name in zip(sources, names, strict=True):
        if frame_count(source) > 1:
            raise UnsupportedImage(
                f"{name} has many frames, and is not sent alone; send one multi-frame file, or single frames"
            )
        instance = str(source.get("SOPInstanceUID"))
        if instance in seen:
            raise UnsupportedImage(f"{name} and {seen[instance]} are one slice (one SOPInstanceUID); send every slice once")
        seen[instance] = name
        for attribute in (*_TEXT, *_NUMBERS):
            if not _agree(sources[0], source, attribute):
                raise UnsupportedImage(f"{name} and {names[0]} differ in {attribute}; send the slices of one series")


def _agree(first: Dataset, second: Dataset, attribute: str) -> bool:
    values = [source.get(attribute) for source in (first, second)]
    if attribute in _TEXT:
        return len({str("" if value is None else value).rstrip(" ^\0") for value in values}) == 1
    one, other = (_numbers(value) for value in values)
    return one.shape == other.shape and np.allclose(one, other, rtol=0, atol=_TOLERANCE)


def _numbers(value: Any) -> np.ndarray:
    """Empty where there is no value. Raises ValueError or TypeError for what is no number."""
    return np.array([] if value in (None, "") else np.atleast_1d(value), np.float64)
