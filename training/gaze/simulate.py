"""Simulated gaze, for data without gaze, for tests and for the demo.

The levels of noise follow measurements on real gaze: GazeMedSeg's EyeLink recordings of 900 polyp images (27 fixations
and 9.0 s an image, 85 % of them inside the lesion, their centroid 0.04 of the image side from the lesion) and a webcam
tracker (17 % inside, 0.2 of the side away). `benchmarks/gaze_figures.py --simulate` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.files import write_bytes
from gazeseg_serve.png import encode_png

from .fixations import ScanPath, write_fixations
from .phantoms import phantom


@dataclass(frozen=True)
class GazeNoise:
    """How gaze falls around a target; lengths are shares of the image's width and height.

    fixations   mean and standard deviation of their number (log-normal), between 5 and 100
    dwell       median in ms and standard deviation of the log of a fixation's duration (log-normal, at least 50 ms)
    search      share of fixations that look anywhere near the target's surroundings instead of at it
    bias        standard deviation of the tracker's offset, the same for a whole image, on each axis
    jitter      standard deviation of the error of one fixation, on each axis
    """

    fixations: tuple[float, float] = (28.5, 10.5)
    dwell: tuple[float, float] = (303.0, 0.45)
    search: float = 0.05
    bias: float = 0.012
    jitter: float = 0.012


NOISE = {"eyelink": GazeNoise(), "webcam": GazeNoise(search=0.5, bias=0.22, jitter=0.2)}


def simulate_gaze(mask: np.ndarray, rng: np.random.Generator, noise: str = "eyelink") -> ScanPath:
    """A scan path over the foreground of `mask` `(H, W)`, any dtype, non-zero = foreground.

    The first fixation is near the image's centre; most others aim at a pixel of the mask, spread over it as a reader
    spreads them, and the tracker's bias and jitter move them. Fixations that would leave the image are not recorded.
    `noise` is "eyelink" or "webcam". Raises DatasetError for an empty mask, ConfigError for an unknown noise.
    """
    if noise not in NOISE:
        raise ConfigError(f"unknown gaze noise {noise!r}; known: {', '.join(NOISE)}")
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        raise DatasetError("the mask is empty, so there is nothing to look at; leave this image out")
    level, (height, width) = NOISE[noise], mask.shape
    count = _count(level, rng)
    pixels = _spread(rows / height, columns / width, count, rng)
    target = np.stack([columns[pixels] + rng.random(count), rows[pixels] + rng.random(count)], axis=1) / (width, height)
    target = target[_short_path(target, rng)]
    middle, reach = target.mean(axis=0), 0.1 + target.std(axis=0)
    astray = rng.random(count) < level.search
    target[astray] = rng.normal(middle, reach, (int(astray.sum()), 2))
    target[0] = rng.normal((0.52, 0.47), 0.05)
    seen = target + rng.normal(0, level.bias, 2) + rng.normal(0, level.jitter, (count, 2))
    duration = np.maximum(50, np.rint(rng.lognormal(np.log(level.dwell[0]), level.dwell[1], count)))
    inside = ((seen >= 0) & (seen <= 1)).all(axis=1)
    if not inside.any():  # a very biased tracker: it lost every fixation but one, held at the rim
        inside[0], seen[0] = True, np.clip(seen[0], 0, 1)
    x, y = seen[inside].T
    return ScanPath(x.copy(), y.copy(), duration[inside], np.ones(int(inside.sum()), np.int64))


def _count(level: GazeNoise, rng: np.random.Generator) -> int:
    """A log-normal number with the wanted mean and standard deviation."""
    mean, deviation = level.fixations
    variance = np.log1p((deviation / mean) ** 2)
    return int(np.clip(np.rint(rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance))), 5, 100))


def _spread(y: np.ndarray, x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `count` points spread evenly: each is the farthest of a few random candidates from those chosen."""
    candidates = rng.integers(0, len(y), (count, 4))
    chosen = candidates[:, 0].copy()
    for i in range(1, count):
        near = (y[candidates[i], None] - y[chosen[:i]]) ** 2 + (x[candidates[i], None] - x[chosen[:i]]) ** 2
        chosen[i] = candidates[i, near.min(axis=1).argmax()]
    return chosen


def _short_path(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An order in which each point is one of the three nearest that are left, as a gaze wanders."""
    left, order = list(range(1, len(points))), [0]
    while left:
        distance = ((points[left] - points[order[-1]]) ** 2).sum(axis=1)
        order.append(left.pop(int(rng.choice(np.argsort(distance)[:3]))))
    return np.array(order)


def write_phantoms(folder: Path | str, count: int, size: int, seed: int = 0, noise: str = "eyelink") -> Path:
    """Write a dataset folder of `count` phantoms, `size` x `size` pixels, with masks and simulated gaze; returns it.

    `images/` and `masks/` are PNG, `fixations.csv` has the columns of a fixation report. The same arguments write the
    same bytes, and image i does not depend on `count`. Raises ConfigError for a count below 1 or a size below 32.
    """
    if count < 1 or size < 32:
        raise ConfigError(f"{count} phantoms of {size} pixels cannot be made; ask for at least 1 of at least 32 pixels")
    folder, paths = Path(folder), {}
    for i in range(count):
        stem = f"phantom_{i:04d}"
        image, mask = phantom(size, np.random.default_rng((seed, i, 0)))
        paths[stem] = simulate_gaze(mask, np.random.default_rng((seed, i, 1)), noise)
        write_bytes(folder / "images" / f"{stem}.png", encode_png(image))
        write_bytes(folder / "masks" / f"{stem}.png", encode_png(mask * np.uint8(255)))
    write_fixations(folder / "fixations.csv", paths, dict.fromkeys(paths, (size, size)))
    return folder
