"""Fixations to a heatmap, exactly, by the separable form of the Gaussian.

The convolution with an isotropic Gaussian is linear and separable. With the 1-D operator G (its column j is the
filtered unit impulse at j), K fixations of durations d at pixels (xs, ys) give heat = G[:, ys] diag(d) G[:, xs]^T:
K * 768 * 768 multiply-adds instead of a dense filter over the canvas.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter1d

from gazeseg_serve.errors import DatasetError
from gazeseg_serve.pixels import resize_map

from .settings import CANVAS, check_sigma

# OpenBLAS gives a product of up to so many multiply-adds to one thread. Above it, its threads wait for each other on a
# busy machine: the product that takes 1 ms alone took 16. So it is done a few rows at a time.
_ONE_THREAD = 2**18


@lru_cache(maxsize=16)
def gaussian_operator(sigma: float, side: int = CANVAS) -> np.ndarray:
    """The 1-D Gaussian filter as a matrix `(side, side)` float64, read-only: `G @ v` filters the column v.

    sigma in canvas pixels; boundary 'reflect', truncated at 4 sigma. Raises ConfigError unless sigma is finite, > 0.
    """
    operator = gaussian_filter1d(np.eye(side), check_sigma(sigma, side), axis=0, mode="reflect", truncate=4.0)
    operator.flags.writeable = False
    return operator


def canvas_pixels(share: np.ndarray, side: int = CANVAS) -> np.ndarray:
    """Canvas pixel of each coordinate in [0, 1]: round(share * side) - 1, clamped to the canvas; int64.

    Rounding is to even at halves. The released code of the method wraps the pixel -1 to the far edge; this does not.
    """
    return np.clip(np.rint(np.asarray(share, np.float64) * side).astype(np.int64) - 1, 0, side - 1)


def accumulate(
    x: np.ndarray, y: np.ndarray, duration: np.ndarray, sigma: float | tuple[float, float], side: int = CANVAS
) -> np.ndarray:
    """The filtered durations on the canvas, `(side, side)` float64, ms; its sum is the total duration.

    x, y `(K,)` in [0, 1]; duration `(K,)` ms; sigma in canvas pixels, one number or (vertical, horizontal).
    """
    down, across = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    rows, columns = canvas_pixels(y, side), canvas_pixels(x, side)
    weighted = gaussian_operator(down, side)[:, rows] * np.asarray(duration, np.float64)
    lines = np.ascontiguousarray(gaussian_operator(across, side)[:, columns].T)
    heat, step = np.empty((side, side)), max(1, _ONE_THREAD // max(1, lines.size))
    for start in range(0, side, step):
        np.matmul(weighted[start : start + step], lines, out=heat[start : start + step])
    return heat


def heatmap(
    x: np.ndarray, y: np.ndarray, duration: np.ndarray, size: tuple[int, int], sigma: float | tuple[float, float] = 70.0
) -> np.ndarray:
    """The heatmap of one scan path at `size` = (height, width): `(H, W)` float32 in [0, 1], its peak near 1.

    x, y `(K,)` in [0, 1], share of the image's width and height; duration `(K,)` ms; sigma in pixels of the square
    768-pixel canvas onto which the image is stretched, one number or (vertical, horizontal).
    Filtered, min-max normalised, resized bicubically, clipped (Zhong et al., MICCAI 2024, and its release).
    Raises DatasetError where there is no fixation, the total duration is 0, or a value is not finite or out of range;
    ConfigError for a sigma that is not above 0.
    """
    values = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64), np.asarray(duration, np.float64)])
    if not np.isfinite(values).all():
        raise DatasetError("a fixation holds a value that is not finite; read_fixations drops such rows")
    if values[:2].size and (values[:2].min() < 0 or values[:2].max() > 1):
        raise DatasetError("a fixation is outside the image; give coordinates as shares of it, in [0, 1]")
    if values.size and values[2].min() < 0:
        raise DatasetError("a fixation has a negative duration")
    if values[2].sum() <= 0:
        raise DatasetError("the fixations last 0 ms in all, so there is no heatmap; record the image again")
    heat = accumulate(values[0], values[1], values[2], sigma)
    low, high = heat.min(), heat.max()
    if high - low <= 1e-12 * high:
        raise DatasetError("the heatmap is flat; use a smaller sigma")
    normalised = ((heat - low) / (high - low)).astype(np.float32)
    return np.clip(resize_map(normalised, size, cubic=True), 0, 1)
