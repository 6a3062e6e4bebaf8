"""Pixels in memory: the limits of an input, channels, resizing, log odds.

Layout everywhere: an image is `(H, W, C)` with C = 1 or 3 (RGB), uint8, or float32 in [0, 1]; a map is `(H, W)` or
`(K, H, W)` float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from .errors import UnsupportedImage


@dataclass(frozen=True)
class Limits:
    """The largest input that is decoded: bytes of the file, pixels of all its frames, and frames."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 40_000_000
    max_frames: int = 1_000


DEFAULT_LIMITS = Limits()
_BLOCK = 1 << 20  # pixels that are looked up at once: the index of one takes eight bytes


def unit_range(values: np.ndarray) -> np.ndarray:
    """Any finite pixels -> float32 of the same shape, the image's least value at 0 and its greatest at 1; all 0 where they
    are one. An affine change of the whole image, which the z-score inside the graph undoes.
    """
    values = np.asarray(values, np.float64)
    low, span = values.min(), np.ptp(values)
    return np.asarray((values - low) / (span or 1), np.float32)


def map_values(values: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`function` of every integer of `values`, in the same shape; it is given the distinct values alone, ascending, int64.

    Of what cameras and scanners write there are 65,536 at most, and far fewer than pixels.
    """
    flat = values.reshape(-1)
    blocks = np.array_split(flat, -(-flat.size // _BLOCK))
    low, span = int(flat.min()), int(flat.max()) - int(flat.min()) + 1
    if span <= 0x10000:
        seen = np.zeros(span, bool)
        for block in blocks:
            seen[block.astype(np.int64) - low] = True
        found = function(np.flatnonzero(seen) + low)
        table = np.zeros(span, found.dtype)
        table[seen] = found
        parts = [table[block.astype(np.int64) - low] for block in blocks]
    else:
        levels = np.unique(flat)
        found = function(levels.astype(np.int64))
        parts = [found[np.searchsorted(levels, block)] for block in blocks]
    return np.concatenate(parts).reshape(values.shape)


def eight_bit(values: np.ndarray) -> np.ndarray:
    """Finite grey values of more than 8 bit -> uint8 of the same shape: the image's least value is black, its greatest white.

    Where every value is a multiple of 257, it is an 8-bit image that was widened, and is that image again. What has one
    value only is black. Files say nothing of what else was meant: 12 bits in 16 have no common place.
    """
    low, high = values.min(), values.max()
    if low >= 0 and high <= 65535 and not np.any(values % 257):
        return (values // 257).astype(np.uint8)
    scale = 255 / (float(high) - float(low) or 1)
    return np.rint((values - np.float64(low)) * scale).astype(np.uint8)


def check_wide_colour(pixels: np.ndarray) -> None:
    """Refuse the eight highest bits `(H, W, 3)` of 16-bit colour where all values lie in the lowest 12, which would look black.
    Raises UnsupportedImage.
    """
    if 0 < pixels.max() < 16:
        raise UnsupportedImage(
            "16-bit colour that uses 12 bits at most is not accepted; spread its values to 16 bit, or send 8"
        )


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


def surest(probability: np.ndarray, share: float) -> float:
    """Mean log odds of the `share` of pixels (at least one) that are likeliest of any class, of a map `(K, h, w)`.

    K = 1 is the probability of the one class, K > 1 has the background first.
    """
    foreground = probability[0] if len(probability) == 1 else 1 - probability[0]
    values = foreground.ravel()
    count = max(1, round(share * values.size))
    top = np.partition(values, values.size - count)[values.size - count :]
    return float(log_odds(top[None])[0].mean())
