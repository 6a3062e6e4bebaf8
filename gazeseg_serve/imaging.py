"""Bytes to pixels and back to the image's own geometry; the limits are checked before decoding.

Layout everywhere: an image is `(H, W, C)` with C = 1 or 3 (RGB), uint8, or float32 in [0, 1] where the InputSpec says so;
a map is `(H, W)` or `(K, H, W)` float32.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError, ImageTooLarge, MalformedImage, UnsupportedImage
from .pixels import DEFAULT_LIMITS, Limits, unit_range, with_channels

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")
_FORMATS = ("PNG", "JPEG", "TIFF")  # JPEG opens MPO files, too
_MAX_SCANS = 100  # of a JPEG; encoders write about ten
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I")
# What Pillow's plugins raise on broken files (found by mutating files; UnidentifiedImageError is an OSError).
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    AttributeError,
    struct.error,
    zlib.error,
    ZeroDivisionError,
)


def is_dicom(data: bytes) -> bool:
    return data[128:132] == b"DICM"


def decode_image(data: bytes, channels: int = 3, limits: Limits = DEFAULT_LIMITS, dtype: str = "uint8") -> np.ndarray:
    """Decode one PNG, JPEG, TIFF or DICOM file.

    Returns `(H, W, channels)`, upright (EXIF orientation applied), alpha composited on black. As uint8, 16-bit grey is
    scaled by 1/257 and DICOM windowed to 8 bit. As float32, a file's whole depth is kept, DICOM after the modality
    (rescale) transform and without its window, and `unit_range` brings it to [0, 1]; colour PNG and TIFF have 8 bit.
    Raises MalformedImage, UnsupportedImage or ImageTooLarge.
    """
    if not data:
        raise MalformedImage("the image is empty (0 bytes); send the file's content")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes, the limit is {limits.max_bytes}; send a smaller file")
    if is_dicom(data):
        from .dicom import decode_dicom

        return with_channels(decode_dicom(data, limits, dtype), channels)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image, limits)
            # Each scan of a progressive JPEG goes over all its pixels, and may take a few bytes of the file.
            if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > _MAX_SCANS:
                raise UnsupportedImage(f"a JPEG of more than {_MAX_SCANS} scans is not accepted; save it as a baseline JPEG")
            image.load()
            pixels = _to_array(image, dtype)
            return (
                with_channels(pixels, channels)
                if dtype == "uint8"
                else unit_range(with_channels(pixels.astype(np.float32), channels))
            )
    except UnidentifiedImageError:
        raise UnsupportedImage("not an image this accepts; send PNG, JPEG, TIFF or DICOM") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, far larger limit
        raise ImageTooLarge(f"the image has more than {limits.max_pixels} pixels; send a smaller image") from error
    except _DECODE_ERRORS as error:
        raise MalformedImage(f"the image cannot be decoded ({error}); it is truncated or corrupt") from error


def read_image(path: Path, channels: int = 3, limits: Limits = DEFAULT_LIMITS, dtype: str = "uint8") -> np.ndarray:
    """Read the image file at `path`; as `decode_image`, with the path in the error."""
    try:
        if path.stat().st_size > limits.max_bytes:
            raise ImageTooLarge(f"{path.stat().st_size} bytes, the limit is {limits.max_bytes}")
        return decode_image(path.read_bytes(), channels, limits, dtype)
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise MalformedImage(f"{path}: {error.strerror or error}") from error


def _check_header(image: Image.Image, limits: Limits) -> None:
    """Refuse by the header alone, before any pixel is decoded."""
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the image has {width} x {height} pixels, the limit is {limits.max_pixels} in all; send a smaller image"
        )
    if width < 1 or height < 1:
        raise MalformedImage("the image has no pixels")
    if image.mode not in _MODES:
        raise UnsupportedImage(f"pixel layout {image.mode} is not accepted; convert to 8-bit RGB or grey")
    if image.format != "MPO" and _has_more(image):
        raise UnsupportedImage("the file holds several frames; send one image a file")


def _has_more(image: Image.Image) -> bool:
    """Whether a second frame follows. Counting them all would walk a chain as long as the file allows."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _to_array(image: Image.Image, dtype: str) -> np.ndarray:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if dtype == "float32":
            return values[..., None]
        if values.min() < 0 or values.max() > 65535:
            raise UnsupportedImage("32-bit grey values outside 0..65535 are not accepted; convert to 8 or 16 bit")
        return np.rint(values / 257).astype(np.uint8)[..., None]
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    mode = "L" if image.mode in ("1", "L") else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels[..., None] if mode == "L" else pixels
