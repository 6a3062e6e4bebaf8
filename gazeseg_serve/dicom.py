"""Read DICOM images, as 8 bit or at their full depth; needs the `dicom` extra."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .dicom_colour import colour
from .dicom_grey import grey
from .dicom_pixels import Layout, check_syntax, stored_frames
from .errors import ImageTooLarge, MalformedImage, UnsupportedImage, require
from .quiet import quiet_readers

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

    from .pixels import Limits

# What pydicom raises on broken files, found by mutating files; `broken_errors` adds its own.
_BROKEN = (
    AttributeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    NotImplementedError,
    struct.error,
    LookupError,
    ArithmeticError,
)
_MAX_ITEMS = 60_000  # of all sequences and of the pixel data; a thousand frames of an enhanced object have 12,000
_MAX_READS = 200_000  # one to three an element
_MAX_GROUPS = 2**20  # bytes of a sequence that is looked into; and for each frame
_MAX_GROUP = 2**15
# Where an enhanced multi-frame object keeps, frame by frame, what a plain one has at the top.
_FRAME_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
_NEEDED = ("Rows", "Columns", "BitsAllocated", "PhotometricInterpretation")
_GREY_ELEMENTS = (
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PhotometricInterpretation",
)
_GREY, _COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_OTHER_COLOUR = ("YBR_PARTIAL_422", "YBR_PARTIAL_420", "HSV", "ARGB", "CMYK", "XYB")


def broken_errors() -> tuple[type[Exception], ...]:
    """The exceptions that mean a broken file: pydicom reads elements late, so any access may raise them."""
    # Where the package is missing, `except broken_errors()` says so, too, and not that a module was not found.
    errors = require("pydicom.errors", "dicom")
    return (errors.InvalidDicomError, errors.BytesLengthException, *_BROKEN)


def is_dicom(data: bytes) -> bool:
    """Whether `data` is a DICOM file, or one without its preamble, as some archives store them."""
    if data[128:132] == b"DICM":
        return True
    group, explicit = data[:2], data[4:6].isupper() and data[4:6].isalpha()
    if group in (b"\x02\0", b"\x08\0"):
        return explicit or (data[3:4] == b"\0" and 0 < int.from_bytes(data[4:8], "little") <= 256)
    return group == b"\0\x08" and explicit


def read_dataset(data: bytes, limits: Limits) -> Dataset:
    """Parse a DICOM file and check its header, before any pixel is decoded.

    Raises MalformedImage, UnsupportedImage, ImageTooLarge (all frames together) or MissingExtraError.
    """
    try:
        dataset = parse_dicom(data)
        check_layout(layout_of(dataset), limits)
    except broken_errors() as error:
        raise MalformedImage(f"the DICOM file cannot be read ({type(error).__name__}); send one image object, whole") from error
    return dataset


def parse_dicom(data: bytes, **options: Any) -> Dataset:
    """What `pydicom.dcmread` makes of a file with these options, with or without its preamble: all that reads one comes here.

    Its warnings go nowhere. Raises UnsupportedImage for a deflated file, ImageTooLarge where the header makes far more than any
    image's, one of `broken_errors`, or MissingExtraError.
    """
    return _parse(data, options)[0]


def parse_header(head: bytes) -> tuple[Dataset, int]:
    """What stands before the pixels of the DICOM file that begins with `head`, and at which byte the pixels' element begins.

    Raises as `parse_dicom`.
    """
    return _parse(head, {"stop_before_pixels": True})


def _parse(data: bytes, options: dict[str, Any]) -> tuple[Dataset, int]:
    pydicom = require("pydicom", "dicom")
    quiet_readers()
    if data.count(b"\xfe\xff\x00\xe0") + data.count(b"\xff\xfe\xe0\x00") > _MAX_ITEMS:
        raise ImageTooLarge(f"the DICOM file has more than {_MAX_ITEMS} items; send fewer frames a file")
    _refuse_deflated(data)
    file = _Counted(data)
    return pydicom.dcmread(file, force=True, **options), file.tell()


class _Counted(io.BytesIO):
    """A file that ends where a reader wants far more elements than any image has: each takes memory, however small."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > _MAX_READS:
            raise ImageTooLarge("the header of the DICOM file has too many elements; send the image without private ones")
        return super().read(size)


def _refuse_deflated(data: bytes) -> None:
    """pydicom inflates such a file whole, whatever that comes to. Raises UnsupportedImage."""
    from pydicom import filereader, uid

    file = _Counted(data)
    file.seek(132 if data[128:132] == b"DICM" else 0)  # the preamble and its mark
    meta = filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        raise UnsupportedImage("a deflated DICOM file is not accepted; send it uncompressed")


def frame_count(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames", 1) or 1)


def layout_of(dataset: Dataset) -> Layout:
    """What the header says of the pixels. Raises MalformedImage, UnsupportedImage or one of `broken_errors`."""
    from pydicom import uid

    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise UnsupportedImage("floating point pixel data is not accepted; send integers with a rescale slope")
        raise UnsupportedImage("the DICOM file holds no pixels; send an image object")
    for name in _NEEDED:
        if dataset.get(name) in (None, ""):
            raise MalformedImage(f"the DICOM file has no {name}; send the image object whole")
    little = dataset.original_encoding[1] is not False
    syntax = dataset.file_meta.get("TransferSyntaxUID") if "file_meta" in dataset.__dict__ else None
    if syntax is None:  # the file says it by how it is written, unless its pixels are compressed
        if dataset["PixelData"].is_undefined_length:
            raise MalformedImage("the DICOM file names no transfer syntax, and its pixels are compressed; send it whole")
        syntax = uid.ImplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    allocated = int(dataset.BitsAllocated)
    stored = int(dataset.get("BitsStored") or allocated)
    layout = Layout(
        int(dataset.Rows),
        int(dataset.Columns),
        frame_count(dataset),
        int(dataset.get("SamplesPerPixel") or 1),
        allocated,
        stored,
        int(dataset.get("HighBit") or stored - 1),
        bool(int(dataset.get("PixelRepresentation") or 0)),
        bool(int(dataset.get("PlanarConfiguration") or 0)),
        str(dataset.PhotometricInterpretation).strip(),
        str(syntax),
        big=not little,
        swapped=not little and allocated == 8 and dataset["PixelData"].VR == "OW",
    )
    check_syntax(layout, uid.UID(syntax).name if uid.UID(syntax).name != syntax else "that DICOM does not know")
    return layout


def check_layout(layout: Layout, limits: Limits) -> None:
    """Raises MalformedImage, UnsupportedImage or ImageTooLarge."""
    rows, columns, frames = layout.rows, layout.columns, layout.frames
    if rows < 1 or columns < 1 or frames < 1:
        raise MalformedImage(f"the DICOM file says {frames} frames of {rows} x {columns} pixels")
    if rows * columns * frames > limits.max_pixels:
        raise ImageTooLarge(
            f"the image has {rows} x {columns} x {frames} pixels, the limit is {limits.max_pixels}; "
            "send a smaller image or fewer frames"
        )
    if frames > limits.max_frames:
        raise ImageTooLarge(f"the image has {frames} frames, the limit is {limits.max_frames}; send fewer a file")
    if layout.photometric not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
        known = layout.photometric if layout.photometric in _OTHER_COLOUR else "that DICOM does not know"
        raise UnsupportedImage(
            f"photometric interpretation {known} is not accepted; send grey, palette colour, RGB or YBR_FULL"
        )
    if (
        layout.samples not in (1, 3)
        or layout.allocated not in (1, 8, 16, 32)
        or (layout.allocated == 1 and layout.samples == 3)
    ):
        raise UnsupportedImage(
            f"{layout.samples} samples of {layout.allocated} bit are not accepted; send 1 or 3 of 8 or 16 bit"
        )
    if layout.samples != (3 if layout.photometric in _COLOUR else 1):
        raise MalformedImage(
            f"{layout.photometric} does not go with {layout.samples} samples a pixel; correct the DICOM header"
        )
    if not 1 <= layout.stored <= layout.high + 1 <= layout.allocated:
        raise MalformedImage(
            f"{layout.stored} bits up to bit {layout.high} of {layout.allocated} cannot be; correct BitsStored and HighBit"
        )
    if layout.samples == 3 and layout.signed:
        raise UnsupportedImage("signed colour is not accepted; send unsigned samples")
    if layout.photometric in ("YBR_ICT", "YBR_RCT") and not layout.syntax.startswith(
        ("1.2.840.10008.1.2.4.9", "1.2.840.10008.1.2.4.20")
    ):
        raise MalformedImage(f"{layout.photometric} is of JPEG 2000 alone; correct the photometric interpretation")


def decode_dicom(data: bytes, limits: Limits, dtype: str = "uint8", window: tuple[float, float] | None = None) -> np.ndarray:
    """Decode a single-frame DICOM file to `(H, W, 1 or 3)`, as `decode_frames` does each frame."""
    dataset = read_dataset(data, limits)
    if frame_count(dataset) != 1:
        raise UnsupportedImage(
            f"the DICOM file holds {frame_count(dataset)} frames; ask for dicom-seg, or send one frame a file"
        )
    (frame,) = decode_frames(dataset, dtype, window)  # to the end: it may hold more than its header says
    return frame


def decode_frames(dataset: Dataset, dtype: str = "uint8", window: tuple[float, float] | None = None) -> Iterator[np.ndarray]:
    """Each frame as `(H, W, 1 or 3)`, uint8 or float32 in [0, 1]: `dicom_grey.grey` or `dicom_colour.colour` of the stored
    pixels, with the values of this frame in an enhanced object. window: as `dicom_grey.grey` takes it. Raises
    MalformedImage, UnsupportedImage or ImageTooLarge.
    """
    try:
        layout = layout_of(dataset)
        for index, (values, photometric) in enumerate(stored_frames(dataset, layout)):
            if photometric in _GREY:
                yield grey(values, _parameters(dataset, index), layout.stored, layout.signed, dtype, window)
            elif window is not None:
                raise UnsupportedImage("the model takes CT in Hounsfield units, which colour has not; send the CT image itself")
            else:
                yield colour(values, photometric, dataset, layout.stored, layout.signed, dtype)
    except broken_errors() as error:
        raise MalformedImage(
            "the DICOM pixels cannot be decoded: the file is truncated or corrupt "
            f"({type(error).__name__}); send it uncompressed"
        ) from error


def _parameters(dataset: Dataset, index: int) -> Dataset:
    """What turns the stored values of one frame to grey, from the top of the object or from its functional groups."""
    from pydicom import Dataset

    found: Any = Dataset()
    found.set_original_encoding(*dataset.original_encoding)
    groups = [dataset]
    shared = _sequence(dataset, "SharedFunctionalGroupsSequence")
    each = _sequence(dataset, "PerFrameFunctionalGroupsSequence")
    for group in [*shared[:1], *each[index : index + 1]]:
        groups += [item for name in _FRAME_GROUPS for item in (group.get(name) or [])[:1]]
    for group in groups:
        for name in _GREY_ELEMENTS:
            if name in group:
                found[name] = _element(group, name)
    return found


def _element(group: Dataset, name: str) -> DataElement:
    try:
        return group[name]
    except broken_errors() as error:  # pydicom reads its value only now
        raise MalformedImage(f"{name} of the DICOM file cannot be read; correct or remove it") from error


def _sequence(dataset: Dataset, name: str) -> Any:
    """The items of a sequence. pydicom parses one of known length when it is asked for: raises ImageTooLarge where that would
    make far more than any image holds.
    """
    raw = dataset.get_item(name) if name in dataset else None
    limit = _MAX_GROUPS + _MAX_GROUP * frame_count(dataset)
    value = getattr(raw, "value", None)
    if isinstance(value, bytes) and len(value) > limit:
        raise ImageTooLarge(f"{name} has {len(value)} bytes, the limit is {limit}; send the frames one a file")
    return dataset.get(name) or []
