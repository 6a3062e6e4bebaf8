"""PNG files: pictures, masks of one bit, maps of sixteen."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from .errors import MalformedImage


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

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes(), 1)) + chunk(b"IEND", b"")
    )


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
