"""Small videos made by code, whose every frame says its number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT = 48, 32


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """`(height, width, 3)` uint8: black, the left top quarter white, the right bottom one of brightness 10 x number."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 255
    picture[height // 2 :, width // 2 :] = 10 * number
    return picture


def number_of(picture: np.ndarray) -> int:
    """The number of a frame that `numbered` made, by its right bottom quarter."""
    height, width = picture.shape[:2]
    return round(float(picture[height // 2 + 2 :, width // 2 + 2 :].mean()) / 10)


def write_clip(
    path: Path,
    pictures: list[np.ndarray],
    stamps: list[int] | None = None,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = 25,
    given: str = "rgb24",
    container: Any = None,
    **options: str,
) -> Path:
    """A video of the pictures; stamps: presentation times in thousandths of a second, else one a frame at `rate`."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        if stamps is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format=given)
            frame.pts = number if stamps is None else stamps[number]
            frame.time_base = Fraction(1, rate) if stamps is None else Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def with_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write another display matrix into an MP4's track header: x' = a x + c y, y' = b x + d y."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer, volume (ISO/IEC 14496-12, 8.3.2)
    one = 1 << 16
    for index, value in enumerate((a * one, b * one, 0, c * one, d * one)):
        data[place + 4 * index : place + 4 * index + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path
