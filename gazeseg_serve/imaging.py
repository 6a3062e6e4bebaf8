"""Bytes to pixels and back to the image's own geometry; the limits are checked before decoding.

Layout everywhere: an image is `(H, W, C)` with C = 1 or 3 (RGB), uint8, or float32 in [0, 1] where the InputSpec says so;
a map is `(H, W)` or `(K, H, W)` float32.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError, ImageTooLarge, MalformedImage, UnsupportedImage

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")
_FORMATS = ("PNG", "JPEG", "TIFF")  # JPEG opens MPO files, too
_MAX_SCANS = 100  # of a JPEG; encoders write about ten
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I;16B", "I;16L", "I")
# What Pillow's plugins raise on broken files (found by mutating files; UnidentifiedImageError is an OSError).
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, OverflowError,
                  AttributeError, struct.error, zlib.error, ZeroDivisionError)


@dataclass(frozen=True)
class Limits:
    """The largest input that is decoded, in bytes of the file and in pixels of the image."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 40_000_000


DEFAULT_LIMITS = Limits()


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
            return (with_channels(pixels, channels) if dtype == "uint8" else
                    unit_range(with_channels(pixels.astype(np.float32), channels)))
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
        raise ImageTooLarge(f"the image has {width} x {height} pixels, the limit is {limits.max_pixels} in all; "
                            "send a smaller image")
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


def unit_range(values: np.ndarray) -> np.ndarray:
    """Any finite pixels -> float32 of the same shape, the image's least value at 0 and its greatest at 1; all 0 where they
    are one. An affine change of the whole image, which the z-score inside the graph undoes.
    """
    values = np.asarray(values, np.float64)
    low, span = values.min(), np.ptp(values)
    return np.asarray((values - low) / (span or 1), np.float32)


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


def with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """`(H, W, 1 or 3)` uint8 or float32 -> `(H, W, channels)`: grey is repeated, RGB weighted to grey."""
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Stretch `(H, W, C)` uint8 or float32 to `size` = (height, width): area average where it shrinks, else bilinear."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return resized.reshape(height, width, image.shape[2])


def resize_map(values: np.ndarray, size: tuple[int, int], cubic: bool = False) -> np.ndarray:
    """Resize float32 `(H, W)` to `size` = (height, width), bilinear (or bicubic), pixel centres at half integers."""
    height, width = size
    if values.shape == (height, width):
        return values
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize integer labels `(H, W)` uint8 to `size` = (height, width) by nearest neighbour (exact centres)."""
    height, width = size
    return cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Scores that resize like logits: `(K, H, W)` float32 probability -> log odds (K = 1) or log p (K > 1).

    A softmax's log p differs from its logits by one number a pixel, the same for all classes, so resizing and then
    taking the greatest class gives what resizing the logits gives.
    """
    tiny = np.float32(1e-7)
    p = np.clip(probability, tiny, 1 - tiny)
    return np.log(p) - np.log1p(-p) if len(p) == 1 else np.log(p)


def encode_png(pixels: np.ndarray, bilevel: bool = False) -> bytes:
    """PNG of `(H, W)` uint8/uint16 or `(H, W, 3)` RGB uint8; `bilevel` writes 1 bit a pixel (0 stays 0)."""
    if bilevel:
        return _encode_bilevel(pixels)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done, "PNG encoding of a valid array does not fail"
    return data.tobytes()


def _encode_bilevel(mask: np.ndarray) -> bytes:
    """A 1-bit grey PNG of a mask `(H, W)`: every answer of the service is one, and OpenCV takes ten times as long."""
    height, width = mask.shape
    packed = np.packbits(mask != 0, axis=1)
    rows = np.zeros((height, packed.shape[1] + 1), np.uint8)  # a row begins with its filter, 0: none
    rows[:, 1:] = packed
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # 1 bit, grey, deflate, not interlaced

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 1))
            + chunk(b"IEND", b""))


def encode_map(values: np.ndarray) -> bytes:
    """16-bit PNG of a map `(H, W)` in [0, 1]; the step is 1/65535, so a threshold moves by at most 8e-6."""
    return encode_png(np.rint(np.clip(values, 0, 1) * 65535).astype(np.uint16))


def read_map(path: Path) -> np.ndarray:
    """Read what `encode_map` wrote: `(H, W)` float32 in [0, 1]. Raises MalformedImage."""
    try:
        values = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except (OSError, cv2.error) as error:
        raise MalformedImage(f"{path}: {error}") from error
    if values is None or values.ndim != 2 or values.dtype != np.uint16:
        raise MalformedImage(f"{path}: not a 16-bit grey PNG; write the maps again with: gazeseg-serve masks")
    return values.astype(np.float32) / 65535
