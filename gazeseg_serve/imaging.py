"""Bytes to pixels and back to the image's own geometry; the limits are checked before decoding.

Layout everywhere: an image is `(H, W, C)` with C = 1 or 3 (RGB), uint8, or float32 in [0, 1] where the InputSpec says so;
a map is `(H, W)` or `(K, H, W)` float32.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .dicom import decode_dicom, is_dicom
from .dicom_codestream import check_scans
from .errors import ImageError, ImageTooLarge, MalformedImage, UnsupportedImage
from .pixels import DEFAULT_LIMITS, Limits, check_wide_colour, eight_bit, map_values, unit_range, with_channels
from .quiet import quiet_readers
from .tiff_header import STRIPS, TILES, pieces

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")
_FORMATS = ("PNG", "JPEG", "TIFF")  # JPEG opens MPO files, too
_MAX_PIECES = 100_000  # strips or tiles of a TIFF, each of which takes time, however small
_PHOTOMETRIC, _TILE_WIDTH, _TILE_LENGTH, _SAMPLE_FORMAT = 262, 322, 323, 339  # tags of TIFF
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


def decode_image(
    data: bytes,
    channels: int = 3,
    limits: Limits = DEFAULT_LIMITS,
    dtype: str = "uint8",
    window: tuple[float, float] | None = None,
) -> np.ndarray:
    """Decode one PNG, JPEG, TIFF or DICOM file.

    Returns `(H, W, channels)`, upright (EXIF orientation applied), alpha composited on black. As uint8, grey of more than 8 bit
    is brought to 8 by `pixels.eight_bit`, DICOM by `dicom_grey.grey`. As float32, a file's whole depth is kept, DICOM after
    the modality (rescale) transform and without its window, and `unit_range` brings it to [0, 1]; colour PNG and TIFF have
    8 bit. window: of Hounsfield units, as the InputSpec says; DICOM is cut to it, a picture of 8 bit is taken to be so already
    and keeps its scale, and one of more is refused, since nothing says what its values are.
    Raises MalformedImage, UnsupportedImage or ImageTooLarge.
    """
    if not data:
        raise MalformedImage("the image is empty (0 bytes); send the file's content")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes, the limit is {limits.max_bytes}; send a smaller file")
    if is_dicom(data):
        return with_channels(decode_dicom(data, limits, dtype, window), channels)
    quiet_readers()
    _check_pieces(pieces(data) if data[:2] in (b"II", b"MM") else 0)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check_header(image, data, limits)
            if image.format in ("JPEG", "MPO"):
                check_scans(data)
            wide = ";16" in str(image.tile[:1])
            image.load()
            if window is not None and image.mode.startswith("I"):
                raise UnsupportedImage(
                    "the model takes CT in Hounsfield units, and grey of more than 8 bit does not say them; send DICOM"
                )
            pixels = _to_array(image, dtype)
            if wide and pixels.shape[2] == 3:
                check_wide_colour(pixels)
            if dtype == "float32" and pixels.dtype != np.float32:
                pixels = with_channels(pixels.astype(np.float32), channels)
                pixels = unit_range(pixels) if window is None else pixels / np.float32(255)
            return with_channels(pixels, channels)
    except UnidentifiedImageError:
        raise UnsupportedImage("not an image this accepts; send PNG, JPEG, TIFF or DICOM") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's own, far larger limit
        raise ImageTooLarge(f"the image has more than {limits.max_pixels} pixels; send a smaller image") from error
    except _DECODE_ERRORS as error:
        raise MalformedImage("the image cannot be decoded; it is truncated or corrupt") from error


def read_image(
    path: Path | str,
    channels: int = 3,
    limits: Limits = DEFAULT_LIMITS,
    dtype: str = "uint8",
    window: tuple[float, float] | None = None,
) -> np.ndarray:
    """Read the image file at `path`; as `decode_image`, with the path in the error."""
    path = Path(path)
    try:
        if path.stat().st_size > limits.max_bytes:
            raise ImageTooLarge(f"{path.stat().st_size} bytes, the limit is {limits.max_bytes}")
        return decode_image(path.read_bytes(), channels, limits, dtype, window)
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise MalformedImage(f"{path}: {error.strerror or error}") from error


def _check_header(image: Image.Image, data: bytes, limits: Limits) -> None:
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
    if image.format == "TIFF":
        _check_tiles(image, data)
    if image.format != "MPO" and _has_more(image):
        raise UnsupportedImage("the file holds several frames; send one image a file")


def _check_pieces(number: int) -> None:
    """Before Pillow opens a TIFF: it makes a list of all strips or tiles, which takes seconds where there are many."""
    if number > _MAX_PIECES:
        raise ImageTooLarge(f"a TIFF in {number} pieces is not accepted, the limit is {_MAX_PIECES}; save it in larger strips")


def _check_tiles(image: Image.Image, data: bytes) -> None:
    """A tile is decoded whole, and may be far larger than the image; and each piece is a JPEG of its own."""
    tags, (width, height) = image.tag_v2, image.size  # type: ignore[attr-defined]
    number = len(tags.get(TILES) or tags.get(STRIPS) or ())
    _check_pieces(number)
    if TILES in tags:
        made = int(tags[_TILE_WIDTH]) * int(tags[_TILE_LENGTH]) * number
        if made > max(8 * width * height, 4_000_000):
            raise ImageTooLarge(f"the tiles of the TIFF have {made} pixels, the image {width} x {height}; save it in strips")
    if "jpeg" in str(image.info.get("compression")):
        check_scans(data, number)


def _has_more(image: Image.Image) -> bool:
    """Whether a second frame follows. Counting them all would walk a chain as long as the file allows."""
    try:
        image.seek(1)
    except EOFError:
        return False
    return True


def _to_array(image: Image.Image, dtype: str) -> np.ndarray:
    """`(H, W, 1 or 3)` uint8; grey of more than 8 bit is float32 where `dtype` is."""
    tags = getattr(image, "tag_v2", {})
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        return map_values(_grey_values(image, tags), eight_bit if dtype == "uint8" else unit_range)[..., None]
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    mode = "L" if image.mode in ("1", "L") else "RGB"
    pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    if mode == "L" and tags.get(_SAMPLE_FORMAT) == (2,):  # signed, which Pillow reads as if it were not
        pixels = pixels ^ 0x80
    return pixels[..., None] if mode == "L" else pixels


def _grey_values(image: Image.Image, tags: Any) -> np.ndarray:
    """`(H, W)` integers of 16 or 32 bit grey, the greatest white; a TIFF whose 0 is white Pillow leaves as it is."""
    values = np.asarray(image)
    if values.dtype.kind == "i" and tags and tags.get(_SAMPLE_FORMAT, (1,)) == (1,):
        values = values.view(np.uint32)
    return ~values if tags.get(_PHOTOMETRIC) == 0 else values
