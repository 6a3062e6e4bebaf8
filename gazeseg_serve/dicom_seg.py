"""Masks as a DICOM Segmentation object that refers to the images it was made from; needs the `dicom` extra."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from . import __version__
from .contract import Artifact
from .dicom import broken_errors, frame_count
from .errors import MalformedImage, UnsupportedImage, require
from .files import sha256

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

# SNOMED CT concepts (category, type), by pydicom's names, of class names that are known; all else is a tissue.
_CODES = {
    "lesion": ("MorphologicallyAbnormalStructure", "Lesion"),
    "polyp": ("MorphologicallyAbnormalStructure", "Lesion"),
    "prostate": ("AnatomicalStructure", "Prostate"),
}
_TISSUE = ("Tissue", "Tissue")
_UID_ROOT = "2.25."  # derived from a UUID, which needs no registration (PS3.5, B.2)


def segmentation(sources: Sequence[Dataset], masks: np.ndarray, artifact: Artifact, threshold: float) -> bytes:
    """One binary DICOM SEG file of `masks` `(frames, H, W)` uint8 labels.

    sources: the datasets of one series, one a frame in the masks' order, or one multi-frame dataset. Size, position,
    study and patient are taken from them. The UIDs are derived from the sources, the model and the threshold, so that
    the same request twice gives the same object. Raises UnsupportedImage where the sources lack what a SEG must
    refer to, or do not belong together.
    """
    hd = require("highdicom", "dicom")
    from pydicom.uid import ExplicitVRLittleEndian

    check_series(sources)
    try:
        sources = [_complete(source) for source in sources]
        seed = "|".join([artifact.id, repr(threshold), *(str(source.get("SOPInstanceUID")) for source in sources)])
        written = hd.seg.Segmentation(
            source_images=sources,
            pixel_array=masks,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _describe(name, number, artifact) for number, name in enumerate(artifact.input.classes, start=1)
            ],
            series_instance_uid=_uid("series", seed),
            series_number=100,
            sop_instance_uid=_uid("instance", seed),
            instance_number=1,
            manufacturer="gazeseg-serve",
            manufacturer_model_name=artifact.id[:16],
            software_versions=__version__,
            device_serial_number=artifact.id[:16],
            transfer_syntax_uid=ExplicitVRLittleEndian,
            omit_empty_frames=False,  # frame i is then always slice i
        )
        file = io.BytesIO()
        written.save_as(file)
    except broken_errors() as error:
        raise UnsupportedImage(
            "no segmentation object can be made for these DICOM files: they must be of one series and "
            f"size, with their study, series and position ({error})"
        ) from error
    if written.NumberOfFrames != len(masks) * len(artifact.input.classes):
        raise UnsupportedImage(
            "the DICOM files lack positions of their own for every frame; send one frame a file, each in a request of its own"
        )
    return file.getvalue()


def check_series(sources: Sequence[Dataset]) -> None:
    """Raise UnsupportedImage unless the datasets can share one SEG: one series and size, one multi-frame at most."""
    try:
        _check_series(sources)
    except broken_errors() as error:
        raise MalformedImage(f"the DICOM header cannot be read ({type(error).__name__})") from error


def _check_series(sources: Sequence[Dataset]) -> None:
    if len(sources) > 1 and any(frame_count(source) > 1 for source in sources):
        raise UnsupportedImage("several files, and one has many frames; send one multi-frame file, or single frames")
    if (len(sources) > 1 or frame_count(sources[0]) > 1) and not sources[0].get("FrameOfReferenceUID"):
        raise UnsupportedImage(
            "several frames, but no frame of reference that says where they lie; send one frame a file, "
            "each in a request of its own"
        )
    for name in ("SeriesInstanceUID", "Rows", "Columns"):
        values = {str(source.get(name)) for source in sources}
        if len(values) > 1:
            raise UnsupportedImage(f"the files differ in {name}; send the slices of one series")
    instances = [str(source.get("SOPInstanceUID")) for source in sources]
    if len(set(instances)) < len(instances):
        raise UnsupportedImage("a slice was sent twice (one SOPInstanceUID); send every slice once")


def _complete(source: Dataset) -> Dataset:
    """The dataset with the attributes of type 2 that a SEG copies (may be empty, must be there), without pixels."""
    from pydicom import Dataset

    kept = Dataset()
    kept.update({tag: element for tag, element in source.items() if tag < 0x7FE00000})
    kept.file_meta = source.file_meta
    for name in (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "AccessionNumber",
        "StudyID",
        "StudyDate",
        "StudyTime",
    ):
        if name not in kept:
            setattr(kept, name, None)
    return kept


def _describe(name: str, number: int, artifact: Artifact) -> SegmentDescription:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    category, kind = (getattr(codes.SCT, keyword) for keyword in _CODES.get(name.lower(), _TISSUE))
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=category,
        segmented_property_type=kind,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"gazeseg-serve {artifact.strategy}", version=artifact.id[:16], family=codes.cid7162.ArtificialIntelligence
        ),
    )


def _uid(kind: str, seed: str) -> str:
    return _UID_ROOT + str(int(sha256(f"{kind}|{seed}".encode())[:32], 16))
