"""What a segmentation and a report of it share: the frames in their order, the UIDs, and what the series is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .clinical import ClassCodes, Code, known_codes
from .contract import Artifact
from .dicom import frame_count
from .dicom_place import Place, find_place
from .errors import UnsupportedImage
from .files import sha256

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER = "gazeseg-serve"
_UID_ROOT = "2.25."  # derived from a UUID, which needs no registration (PS3.5, B.2)


@dataclass(frozen=True)
class ResultOptions:
    """How the masks were made: with them the UIDs change.

    presence        from which an image is taken to show anything, where another than the model's own was asked for
    forced          what of the image contradicts the model's intended use; empty where nothing does
    identity        "images": an object's UID is of the images in it; "series": of their series, so that a later, more
                    complete result replaces the one before
    """

    threshold: float
    forced: tuple[str, ...] = ()
    identity: str = "images"
    presence: float | None = None


@dataclass(frozen=True)
class Frames:
    """The frames of a result, in the order in which it holds them: sources by number, and one frame of one source each."""

    sources: tuple[Dataset, ...]
    source: tuple[int, ...]
    number: tuple[int, ...]
    place: Place | None

    def reference(self, frame: int) -> tuple[str, str, int | None]:
        """(SOP class, SOP instance, frame number from 1, None of a single-frame image)."""
        dataset = self.sources[self.source[frame]]
        several = frame_count(dataset) > 1
        return str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), self.number[frame] if several else None


def in_order(headers: Sequence[Dataset], masks: np.ndarray) -> tuple[Frames, np.ndarray]:
    """The frames along the patient where they have a place there, else by instance number; the same whatever came first."""
    ordered = sorted(range(len(headers)), key=lambda i: (instance_number(headers[i]), str(headers[i].SOPInstanceUID)))
    starts = np.cumsum([0, *(frame_count(header) for header in headers)])
    if starts[-1] != len(masks):
        raise UnsupportedImage(f"{len(masks)} masks for {starts[-1]} frames")
    sources = tuple(headers[i] for i in ordered)
    source = [number for number, i in enumerate(ordered) for _ in range(frame_count(headers[i]))]
    frame = [number for i in ordered for number in range(1, frame_count(headers[i]) + 1)]
    masks = np.concatenate([masks[starts[i] : starts[i + 1]] for i in ordered])
    place = find_place(sources)
    if place is None:
        return Frames(sources, tuple(source), tuple(frame), None), masks
    normal = np.cross(place.orientation[:3], place.orientation[3:])
    along = np.argsort(-(place.positions @ normal), kind="stable")  # as highdicom orders the frames of a segment
    placed = Place(place.frame_of_reference, place.orientation, place.positions[along], place.spacing, place.thickness)
    return Frames(sources, tuple(source[i] for i in along), tuple(frame[i] for i in along), placed), masks[along]


def result_uids(kind: str, sources: Sequence[Dataset], artifact: Artifact, options: ResultOptions) -> tuple[str, str]:
    """(series UID, instance UID) of a result: of the images, the model and the options alone.

    All results of one series, model and options are of one series, so that a colonoscopy gets one and not one a picture.
    """
    seed = "|".join(
        [
            kind,
            str(sources[0].StudyInstanceUID),
            str(sources[0].SeriesInstanceUID),
            artifact.id,
            repr(codes_of(artifact)),
            repr(artifact.presence),
            repr(options.threshold),
            repr(options.presence),
            *sorted(options.forced),
        ]
    )
    images = sorted(str(source.SOPInstanceUID) for source in sources) if options.identity == "images" else [options.identity]
    return derived_uid(f"series|{seed}"), derived_uid("|".join(["instance", seed, *images]))


def derived_uid(seed: str) -> str:
    return _UID_ROOT + str(int(sha256(seed.encode())[:32], 16))


def codes_of(artifact: Artifact) -> list[ClassCodes]:
    return list(artifact.codes) or [known_codes(name) for name in artifact.input.classes]


def parameters(options: ResultOptions) -> dict[str, str]:
    """How the masks were made, as AlgorithmParameters name it."""
    named = {"threshold": f"{options.threshold:g}"}
    if options.presence is not None:
        named["presence"] = f"{options.presence:g}"
    return {**named, "force": "true"} if options.forced else named


def coded(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(code.value, code.scheme, code.meaning)


def description(what: str, artifact: Artifact, options: ResultOptions) -> str:
    """The series' description, as a viewer lists it."""
    forced = "OUTSIDE INTENDED USE: " if options.forced else ""
    return f"{forced}{what} of {plain(', '.join(artifact.input.classes), 64)} (gazeseg-serve)"[:64]


def plain(text: str, longest: int) -> str:
    """Text of ours as DICOM's strings take it: printable, without backslash, at most so long."""
    return "".join(character for character in text if character.isprintable() and character != "\\")[:longest].strip()


def instance_number(header: Dataset) -> int:
    try:
        return min(int(header.get("InstanceNumber") or 0), 2**31 - 1)
    except (TypeError, ValueError):
        return 0
