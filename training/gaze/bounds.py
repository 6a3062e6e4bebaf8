"""What a recording can be: bounds that are checked before any work is done on it, and errors that name the fix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gazeseg_serve.errors import DatasetError

from .mapping import MILLISECONDS

RATE = (15.0, 4000.0)  # samples a second: webcams to the fastest cameras
LONGEST_FIXATION = 60_000.0  # ms
LONGEST_LOOK = 3_600_000.0  # ms of one image: beyond it the clock is wrong
SHARE = 1.5  # the largest position that can be a share, one beside the image
JUMP = 60_000.0  # ms between two samples of one look at one image


def interval(times: Sequence[float] | np.ndarray) -> float:
    """The median step between distinct times that follow one another, in their own unit; NaN where there is none."""
    steps = np.diff(np.asarray(times, np.float64))
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else math.nan


def rate_of(times: Sequence[float] | np.ndarray) -> float:
    """Samples a second of rising times in ms; NaN where there are fewer than two."""
    step = interval(times)
    return 1000 / step if step > 0 else math.nan


def unit_of_rate(times: Sequence[float] | np.ndarray) -> str | None:
    """The unit of time in which these are samples of a tracker; the bounds leave at most one."""
    step = interval(times)
    for unit, scale in MILLISECONDS.items():
        if step > 0 and RATE[0] <= 1000 / (step * scale) <= RATE[1]:
            return unit
    return None


def check_positions(path: Path, position: str, count: int, beyond: int, largest: float) -> None:
    """Raises DatasetError where positions can only be in another unit than `position`, naming it and the fix.

    `count` positions, of which `beyond` lie beyond what a share can be, up to `largest`.
    """
    shares = position in ("image", "screen")
    if shares and beyond * 2 > count:
        kind = "pixels" if largest > 100 else "percent"
        fits = '"pixels" (of the screen) or "image_pixels"' if kind == "pixels" else '"image_percent" or "screen_percent"'
    elif not shares and count > 2 and largest <= SHARE:
        kind, fits = "shares", '"image" or "screen"'
    else:
        return
    what = {"image": "shares of the image", "screen": "shares of the screen"}.get(position, position.replace("_", " "))
    raise DatasetError(
        f"{path}: positions up to {largest:g} are {kind}, not {what}; write a gaze.toml with "
        f'files = ["{path.name}"] and under [units] position = {fits}'
        + ("; for pixels of the screen also width_px and height_px under [screen]" if kind == "pixels" else "")
    )


def wrong_rate(rate: float) -> bool:
    return not RATE[0] <= rate <= RATE[1]
