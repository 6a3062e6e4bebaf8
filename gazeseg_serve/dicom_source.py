"""What a segmentation or report keeps of the images it was made from: their headers without pixels, made valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .dicom import broken_errors, frame_count
from .dicom_text import code, line, number, patient_and_study, required_uid, uid, value
from .errors import UnsupportedImage

if TYPE_CHECKING:
    from pydicom import Dataset

# Lossy transfer syntaxes (PS3.5, A.4): LossyImageCompressionMethod by the beginning of their UID's last parts.
_JPEG, _JPEG2000 = "ISO_10918_1", "ISO_15444_1"
_LOSSY = {
    "1.2.840.10008.1.2.4.50": _JPEG,
    "1.2.840.10008.1.2.4.51": _JPEG,
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": _JPEG2000,
    "1.2.840.10008.1.2.4.93": _JPEG2000,
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
    "1.2.840.10008.1.2.4.100": "ISO_13818_2",
    "1.2.840.10008.1.2.4.101": "ISO_13818_2",
    "1.2.840.10008.1.2.4.102": "ISO_14496_10",
    "1.2.840.10008.1.2.4.103": "ISO_14496_10",
}
# SOP classes of one frame an object (PS3.3, A): nothing may refer to a second one.
_SINGLE_FRAME = frozenset(
    "1.2.840.10008.5.1.4.1.1." + part
    for part in (
        "1",
        "1.1",
        "1.1.1",
        "1.2",
        "1.2.1",
        "1.3",
        "1.3.1",
        "2",
        "4",
        "6.1",
        "7",
        "77.1.1",
        "77.1.2",
        "77.1.3",
        "77.1.4",
        "128",
    )
)
# Copied as they are where they can be read: numbers, and groups of them.
_PLACE = (
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
_COUNTS = ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "InstanceNumber")
_CODES = ("Modality", "BodyPartExamined", "PhotometricInterpretation")
_DATES = ("ContentDate", "ContentTime", "AcquisitionDate", "AcquisitionTime", "SeriesDate", "SeriesTime")


def source_header(dataset: Dataset) -> Dataset:
    """The header of one image as its segmentation refers to it; a header of a header is the same.

    Patient and study are valid and in UTF-8, the UIDs checked, and LossyImageCompression says what the transfer syntax
    says. Takes the pixels' length for the compression ratio, so it is asked before they are dropped.
    Raises MalformedImage that names the attribute without which nothing can refer to the image.
    """
    from .dicom_text import clock, day

    header: Any = patient_and_study(dataset)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        setattr(header, keyword, required_uid(dataset, keyword))
    if frame_count(dataset) > 1 and header.SOPClassUID in _SINGLE_FRAME:
        raise UnsupportedImage(
            "NumberOfFrames is more than 1, but the SOPClassUID is one of single-frame images, which no "
            "segmentation can refer to; send one frame a file"
        )
    if reference := value(dataset, "FrameOfReferenceUID", uid):
        header.FrameOfReferenceUID = reference
        header.PositionReferenceIndicator = value(dataset, "PositionReferenceIndicator", lambda text: line(text, 64)) or None
    for keyword in _CODES:
        if term := value(dataset, keyword, code):
            setattr(header, keyword, term)
    for keyword in _DATES:
        if found := value(dataset, keyword, day if keyword.endswith("Date") else clock):
            setattr(header, keyword, found)
    for keyword in (*_COUNTS, *_PLACE):
        _copy(header, dataset, keyword)
    _describe_loss(header, dataset)
    _orient(header, dataset)
    return header


def _copy(header: Any, dataset: Dataset, keyword: str) -> None:
    try:
        found = dataset.get(keyword)
        if found is not None and found != "":
            setattr(header, keyword, [_plane(item) for item in found] if keyword.endswith("Sequence") else found)
    except broken_errors():
        return  # what a frame's place lacks, find_place sees


def _plane(item: Dataset) -> Dataset:
    """Of a functional group, what says where its frame lies."""
    from pydicom import Dataset

    kept: Any = Dataset()
    for macro, keywords in (
        ("PlanePositionSequence", _PLACE[:1]),
        ("PlaneOrientationSequence", _PLACE[1:2]),
        ("PixelMeasuresSequence", _PLACE[2:5]),
    ):
        if item.get(macro):
            inner = Dataset()
            for keyword in keywords:
                _copy(inner, item.get(macro)[0], keyword)
            setattr(kept, macro, [inner])
    return kept


def _orient(header: Any, dataset: Dataset) -> None:
    """PatientOrientation of an image that says its directions in letters."""
    try:
        found = dataset.get("PatientOrientation")
        letters = [code(part) for part in found] if found and not isinstance(found, str) else []
    except broken_errors():
        return
    if len(letters) == 2 and all(letters):
        header.PatientOrientation = letters


def _describe_loss(header: Any, dataset: Dataset) -> None:
    method = _LOSSY.get(str(getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", "")))
    lossy = method is not None or value(dataset, "LossyImageCompression", code) == "01"
    header.LossyImageCompression = "01" if lossy else "00"
    if not lossy:
        return
    ratio = value(dataset, "LossyImageCompressionRatio", _last(number)) or (_ratio(dataset) if method else "")
    method = value(dataset, "LossyImageCompressionMethod", _last(code)) or method or ""
    if ratio:
        header.LossyImageCompressionRatio = ratio
    if method:
        header.LossyImageCompressionMethod = method


def _last(normalise: Any) -> Any:
    """Of several values, one a lossy step, the last."""
    return lambda found: normalise(found if found is None or isinstance(found, str | float | int) else list(found)[-1])


def _ratio(dataset: Dataset) -> str:
    """Bytes of the pixels before and after compression, as they stand here; "" where they are gone."""
    try:
        packed = len(dataset.PixelData)
        whole = (
            int(dataset.Rows)
            * int(dataset.Columns)
            * frame_count(dataset)
            * int(dataset.get("SamplesPerPixel", 1))
            * int(dataset.BitsAllocated)
            // 8
        )
    except broken_errors():
        return ""
    return number(f"{whole / packed:.4g}") if packed and whole > packed else ""
