"""Read one DICOM image as 8 bit; needs the `dicom` extra."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from .errors import ImageTooLarge, MalformedImage, UnsupportedImage, require

if TYPE_CHECKING:
    from .imaging import Limits


def decode_dicom(data: bytes, limits: Limits) -> np.ndarray:
    """Decode a single-frame DICOM file to `(H, W, 1 or 3)` uint8.

    Grey images go through the modality and VOI transforms, are inverted for MONOCHROME1, and are min-max scaled to
    8 bit. Raises MalformedImage, UnsupportedImage, ImageTooLarge or MissingExtraError.
    """
    pydicom = require("pydicom", "dicom")
    from pydicom.errors import InvalidDicomError
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, convert_color_space

    try:
        dataset = pydicom.dcmread(io.BytesIO(data))
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        photometric = str(dataset.PhotometricInterpretation)
    except (InvalidDicomError, AttributeError, ValueError, TypeError, EOFError, OSError) as error:
        raise MalformedImage(f"the DICOM file cannot be read ({error})") from error
    if rows * columns * frames > limits.max_pixels:
        raise ImageTooLarge(f"the image has {rows} x {columns} x {frames} pixels, the limit is {limits.max_pixels}")
    if frames != 1:
        raise UnsupportedImage(f"the DICOM file holds {frames} frames; send one frame a file")
    try:
        pixels = dataset.pixel_array
        if photometric.startswith("MONOCHROME"):
            values = np.asarray(apply_voi_lut(apply_modality_lut(pixels, dataset), dataset), np.float64)
            return _eight_bit(-values if photometric == "MONOCHROME1" else values)[..., None]
        if photometric.startswith("YBR"):
            pixels = convert_color_space(pixels, photometric, "RGB")
        elif photometric != "RGB":
            raise UnsupportedImage(f"photometric interpretation {photometric} is not accepted")
        return np.ascontiguousarray(pixels, np.uint8)
    except (AttributeError, ValueError, TypeError, KeyError, NotImplementedError, RuntimeError, EOFError) as error:
        raise MalformedImage(f"the DICOM pixels cannot be decoded ({error})") from error


def _eight_bit(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    return np.rint((values - low) * (255 / (high - low))).astype(np.uint8)
