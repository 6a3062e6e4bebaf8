"""Read DICOM images, as 8 bit or at their full depth; needs the `dicom` extra."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ImageTooLarge, MalformedImage, UnsupportedImage, require

if TYPE_CHECKING:
    from pydicom import Dataset

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
# Where an enhanced multi-frame object keeps, frame by frame, what a plain one has at the top.
_FRAME_GROUPS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")


def broken_errors() -> tuple[type[Exception], ...]:
    """The exceptions that mean a broken file: pydicom reads elements late, so any access may raise them."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (InvalidDicomError, BytesLengthException, *_BROKEN)


def read_dataset(data: bytes, limits: Limits) -> Dataset:
    """Parse a DICOM file and check its header, before any pixel is decoded.

    Raises MalformedImage, UnsupportedImage, ImageTooLarge (all frames together) or MissingExtraError.
    """
    pydicom = require("pydicom", "dicom")
    try:
        _refuse_deflated(data)
        dataset = pydicom.dcmread(io.BytesIO(data))
        rows, columns, frames = int(dataset.Rows), int(dataset.Columns), frame_count(dataset)
        photometric = str(dataset.PhotometricInterpretation)
        depth, samples = int(dataset.BitsAllocated), int(dataset.get("SamplesPerPixel", 1))
    except broken_errors() as error:
        raise MalformedImage(f"the DICOM file cannot be read ({type(error).__name__}); send one image object, whole") from error
    if rows < 1 or columns < 1 or frames < 1:
        raise MalformedImage(f"the DICOM file says {frames} frames of {rows} x {columns} pixels")
    if rows * columns * frames > limits.max_pixels:
        raise ImageTooLarge(f"the image has {rows} x {columns} x {frames} pixels, the limit is {limits.max_pixels}")
    if not photometric.startswith(("MONOCHROME", "YBR", "RGB", "PALETTE COLOR")):
        raise UnsupportedImage(f"photometric interpretation {photometric[:32]!r} is not accepted")
    if depth not in (1, 8, 16) or samples not in (1, 3):
        raise UnsupportedImage(f"{samples} samples of {depth} bit are not accepted; send 1 or 3 of 8 or 16 bit")
    return dataset


def _refuse_deflated(data: bytes) -> None:
    """pydicom inflates such a file whole, whatever that comes to. Raises UnsupportedImage."""
    from pydicom import filereader, uid

    file = io.BytesIO(data)
    file.seek(132)  # the preamble and its mark
    meta = filereader.read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
        raise UnsupportedImage("a deflated DICOM file is not accepted; send it uncompressed")


def frame_count(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames", 1) or 1)


def decode_dicom(data: bytes, limits: Limits, dtype: str = "uint8") -> np.ndarray:
    """Decode a single-frame DICOM file to `(H, W, 1 or 3)`, as `decode_frames` does each frame."""
    dataset = read_dataset(data, limits)
    if frame_count(dataset) != 1:
        raise UnsupportedImage(
            f"the DICOM file holds {frame_count(dataset)} frames; ask for dicom-seg, or send one frame a file"
        )
    return decode_frames(dataset, dtype)[0]


def decode_frames(dataset: Dataset, dtype: str = "uint8") -> list[np.ndarray]:
    """Every frame as `(H, W, 1 or 3)`, uint8 or float32 in [0, 1].

    Grey frames go through the modality (rescale) transform, frame by frame in an enhanced object, are inverted for
    MONOCHROME1, and are min-max scaled: to 8 bit after the VOI (window) transform, or, without a window, to float32 as
    `imaging.unit_range` does. Colour becomes RGB; as uint8 more than 8 bit is scaled down.
    Raises MalformedImage, or UnsupportedImage where no decoder for the transfer syntax is installed.
    """
    try:
        _check_decoder(dataset)
        pixels = dataset.pixel_array
        frames = pixels if frame_count(dataset) > 1 else pixels[None]
        return [_frame(frame, dataset, index, dtype) for index, frame in enumerate(frames)]
    except broken_errors() as error:
        raise MalformedImage(
            "the DICOM pixels cannot be decoded: the file is truncated or corrupt, or compressed in a "
            f"way that the decoders here do not know ({type(error).__name__}); send it uncompressed"
        ) from error


def _check_decoder(dataset: Dataset) -> None:
    from pydicom.pixels import get_decoder

    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
    if syntax is None:
        raise MalformedImage("the DICOM file names no transfer syntax")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise UnsupportedImage(f"transfer syntax {str(syntax)[:64]} is not accepted; send it uncompressed") from None
    if not decoder.is_available:
        raise UnsupportedImage(f"no decoder for transfer syntax {syntax.name} is installed; send it uncompressed")


def _frame(pixels: np.ndarray, dataset: Dataset, index: int, dtype: str) -> np.ndarray:
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, convert_color_space

    from .pixels import unit_range

    deep = dtype == "float32"
    photometric = str(dataset.PhotometricInterpretation)
    if photometric.startswith("MONOCHROME"):
        parameters = _parameters(dataset, index)
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at below
            values = apply_modality_lut(pixels, parameters)
            values = np.asarray(values if deep else apply_voi_lut(values, parameters), np.float64)
        if not np.isfinite(float(values.max()) - float(values.min())):
            raise MalformedImage("the rescale or window values of the DICOM file make pixels that are not finite")
        values = (-values if photometric == "MONOCHROME1" else values)[..., None]
        return unit_range(values) if deep else _eight_bit(values)
    bits = int(dataset.BitsStored)
    if photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
        bits = 8 * pixels.itemsize
    elif photometric.startswith("YBR"):
        pixels = convert_color_space(pixels, photometric, "RGB")
    return unit_range(pixels) if deep else _scaled(pixels, bits)


def _parameters(dataset: Dataset, index: int) -> Dataset:
    """The rescale and window of one frame, from the top of the object or from its functional groups."""
    from pydicom import Dataset

    found: Any = Dataset()
    names = (
        "RescaleSlope",
        "RescaleIntercept",
        "ModalityLUTSequence",
        "WindowCenter",
        "WindowWidth",
        "VOILUTFunction",
        "VOILUTSequence",
        "BitsStored",
        "PixelRepresentation",
        "PhotometricInterpretation",
    )
    groups = [dataset]
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared[:1], *each[index : index + 1]]:
        groups += [item for name in _FRAME_GROUPS for item in (group.get(name) or [])[:1]]
    for group in groups:
        for name in names:
            if name in group:
                setattr(found, name, group.get(name))
    return found


def _scaled(pixels: np.ndarray, bits: int) -> np.ndarray:
    """`(H, W, 3)` of `bits` bits -> uint8."""
    if bits <= 8:
        return np.ascontiguousarray(pixels, np.uint8)
    return np.rint(pixels.astype(np.float64) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)


def _eight_bit(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint((values - low) * (255 / (high - low))).astype(np.uint8)
