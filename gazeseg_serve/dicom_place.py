"""Where the frames of DICOM images lie: in a patient, each at a place of its own, or nowhere that can be said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .dicom import broken_errors, frame_count
from .dicom_text import uid, value

if TYPE_CHECKING:
    from pydicom import Dataset

_SAME_DIRECTION = 1e-3  # of direction cosines; headers round them
_SAME_PLACE = 1e-3  # millimetres
_SAME_LENGTH = 1e-3  # a share


@dataclass(frozen=True)
class Place:
    """Parallel frames in one frame of reference.

    orientation     direction cosines of a row and of a column, six values
    positions       of the first pixel of each frame, `(frames, 3)` float64 in mm, no two the same
    spacing         mm between rows and between columns
    thickness       of a slice, mm
    """

    frame_of_reference: str
    orientation: tuple[float, ...]
    positions: np.ndarray
    spacing: tuple[float, float]
    thickness: float


def find_place(datasets: Sequence[Dataset]) -> Place | None:
    """The place of all frames of all `datasets`, in their order; None where a SEG could not state it.

    That is: no frame of reference (endoscopy, ultrasound, photographs), no position for every frame, two frames at one
    position (a beating heart), frames at an angle, an unknown spacing or thickness.
    """
    references = {value(dataset, "FrameOfReferenceUID", uid) for dataset in datasets}
    if len(references) != 1 or "" in references:
        return None
    try:
        frames = [frame for dataset in datasets for frame in _frames(dataset)]
    except broken_errors():
        return None
    if any(part is None for frame in frames for part in frame[:3]):
        return None
    positions, orientations, spacings = (np.array([frame[part] for frame in frames], np.float64) for part in range(3))
    if not (np.isfinite(positions).all() and _right_angled(orientations[0]) and (spacings > 0).all()):
        return None
    if np.abs(orientations - orientations[0]).max() > _SAME_DIRECTION:
        return None
    if not np.allclose(spacings, spacings[0], rtol=_SAME_LENGTH, atol=0):
        return None
    gap = _least_gap(positions, orientations[0])
    if gap is not None and gap < _SAME_PLACE:
        return None
    thickness = next((frame[3] for frame in frames if frame[3]), gap)
    if not thickness:
        return None
    return Place(references.pop(), tuple(orientations[0].tolist()), positions, (spacings[0][0], spacings[0][1]), thickness)


def find_spacing(dataset: Dataset) -> tuple[float, float] | None:
    """Millimetres between rows and between columns of every frame, where the image says so."""
    try:
        found = {tuple(frame[2]) if frame[2] is not None else None for frame in _frames(dataset)}
    except broken_errors():
        return None
    spacing = found.pop() if len(found) == 1 else None
    return None if spacing is None or not all(0 < side < 1e6 for side in spacing) else (spacing[0], spacing[1])


_Frame = tuple[list[float] | None, list[float] | None, list[float] | None, float | None]


def _frames(dataset: Dataset) -> list[_Frame]:
    """(position, orientation, spacing, thickness) of each frame, from the object's top or from its functional groups."""
    count = frame_count(dataset)
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [None])[0]
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    found: list[_Frame] = []
    for number in range(count):
        groups = [group for group in (each[number] if number < len(each) else None, shared) if group is not None]
        place = _macro(groups, "PlanePositionSequence") or (dataset if count == 1 else None)
        found.append(
            (
                _numbers(place, "ImagePositionPatient", 3),
                _numbers(_macro(groups, "PlaneOrientationSequence") or dataset, "ImageOrientationPatient", 6),
                _numbers(_macro(groups, "PixelMeasuresSequence") or dataset, "PixelSpacing", 2),
                _thickness(_macro(groups, "PixelMeasuresSequence") or dataset),
            )
        )
    return found


def _macro(groups: Sequence[Any], name: str) -> Any:
    return next((group.get(name)[0] for group in groups if group.get(name)), None)


def _numbers(item: Any, name: str, count: int) -> list[float] | None:
    found = None if item is None else item.get(name)
    if found is None or isinstance(found, str) or len(found) != count:
        return None
    numbers = [float(part) for part in found]
    return numbers if np.isfinite(numbers).all() else None


def _thickness(item: Any) -> float | None:
    for name in ("SliceThickness", "SpacingBetweenSlices"):
        found = item.get(name)
        if found is not None and 0 < float(found) < 1e6:
            return float(found)
    return None


def _right_angled(orientation: np.ndarray) -> bool:
    row, column = orientation[:3], orientation[3:]
    lengths = np.array([row @ row, column @ column])
    return bool(np.abs(lengths - 1).max() < 0.01 and abs(row @ column) < 0.01)


def _least_gap(positions: np.ndarray, orientation: np.ndarray) -> float | None:
    """The least distance in mm between neighbours along the normal; None of one frame."""
    if len(positions) == 1:
        return None
    along = np.sort(positions @ np.cross(orientation[:3], orientation[3:]))
    return float(np.diff(along).min())
