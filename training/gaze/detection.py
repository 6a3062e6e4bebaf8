"""Raw gaze samples of one recording to fixations, by velocity (I-VT) or by dispersion (I-DT), with pymovements."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gazeseg_serve.errors import ConfigError, require

METHODS = ("ivt", "idt")
_SMOOTHING = 0.04  # seconds of the Savitzky-Golay window behind a velocity


@dataclass(frozen=True)
class Monitor:
    """The screen in pixels and cm, and the eyes' distance from it in cm."""

    width_px: int
    height_px: int
    width_cm: float
    height_cm: float
    distance_cm: float

    def __post_init__(self) -> None:
        for name in ("width_px", "height_px", "width_cm", "height_cm", "distance_cm"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"screen {name} = {getattr(self, name)} is not above 0")


@dataclass(frozen=True)
class Detection:
    """How samples become fixations (Salvucci and Goldberg, ETRA 2000).

    method       "ivt": slower than `velocity` (degrees a second); "idt": within `dispersion` (degrees)
    minimum_ms   a shorter fixation is none
    max_gap_ms   a longer gap without gaze ends a fixation, a shorter one is bridged by a straight line
    """

    method: str = "ivt"
    velocity: float = 40.0
    dispersion: float = 1.0
    minimum_ms: float = 60.0
    max_gap_ms: float = 75.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(f"unknown detection method {self.method!r}; known: {', '.join(METHODS)}")
        for name in ("velocity", "dispersion", "minimum_ms", "max_gap_ms"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"detection {name} = {getattr(self, name)} is not above 0")


@dataclass(frozen=True)
class Detected:
    """Fixations: centres `(K,)` in screen pixels, durations and starts in ms, first sample of each (index, int64)."""

    x: np.ndarray
    y: np.ndarray
    duration: np.ndarray
    start: np.ndarray
    first: np.ndarray


def detect(time: np.ndarray, x: np.ndarray, y: np.ndarray, monitor: Monitor, settings: Detection) -> Detected:
    """Find the fixations of one recording.

    time `(N,)` ms, rising; x, y `(N,)` screen pixels, NaN where there is no gaze. The samples are put on a regular
    grid of their median interval first. Too few samples give no fixation.
    Raises MissingExtraError without pymovements.
    """
    seen = np.isfinite(x) & np.isfinite(y)
    interval = float(np.median(np.diff(time))) if len(time) > 1 else math.inf
    least = max(2, math.ceil(settings.minimum_ms / interval)) if interval > 0 else math.inf
    if seen.sum() < max(least, 4):
        nothing = np.zeros(0)
        return Detected(nothing, nothing, nothing, nothing, np.zeros(0, np.int64))
    grid = np.arange(time[0], time[-1] + interval / 2, interval)
    points = _regular(grid, time, x, y, seen, max(settings.max_gap_ms, 1.5 * interval))
    spans = [
        slice(run.start + first, run.start + last + 1)
        for run in _runs(np.isfinite(points[:, 0]))
        for first, last in _events(points[run], 1000 / interval, monitor, settings, int(least))
    ]
    # The median: the last sample of an event may already belong to the saccade that ends it.
    centres = np.array([np.median(points[span], axis=0) for span in spans]).reshape(-1, 2)
    duration = np.array([(span.stop - span.start) * interval for span in spans])
    start = grid[np.array([span.start for span in spans], np.int64)]
    return Detected(centres[:, 0], centres[:, 1], duration, start, np.searchsorted(time, start - interval / 2))


def _regular(grid: np.ndarray, time: np.ndarray, x: np.ndarray, y: np.ndarray, seen: np.ndarray, max_gap: float) -> np.ndarray:
    """The samples on the grid `(M, 2)`, bridged linearly, NaN inside gaps longer than `max_gap` ms."""
    known = time[seen]
    points = np.stack([np.interp(grid, known, x[seen]), np.interp(grid, known, y[seen])], axis=1)
    after = np.searchsorted(known, grid)
    exact = known[np.minimum(after, len(known) - 1)] == grid
    before = known[np.clip(after - 1, 0, None)]
    following = known[np.clip(after, None, len(known) - 1)]
    outside = (grid < known[0]) | (grid > known[-1])
    points[~exact & (outside | (following - before > max_gap))] = np.nan
    return points


def _runs(seen: np.ndarray) -> list[slice]:
    """The stretches where `seen` `(M,)` bool holds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], seen, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _events(points: np.ndarray, rate: float, monitor: Monitor, settings: Detection, least: int) -> list[tuple[int, int]]:
    """First and last sample of each fixation in the gapless samples `(M, 2)`, screen pixels at `rate` Hz."""
    if len(points) < max(least, 4):
        return []
    pm = require("pymovements", "train")
    experiment = pm.Experiment(
        monitor.width_px, monitor.height_px, monitor.width_cm, monitor.height_cm, monitor.distance_cm, "upper left", rate
    )
    gaze = pm.gaze.from_numpy(time=np.arange(len(points)), pixel=points.T, experiment=experiment)
    gaze.pix2deg()
    if settings.method == "ivt":
        window = max(3, round(rate * _SMOOTHING) // 2 * 2 + 1)
        if window > len(points):
            return []
        gaze.pos2vel("savitzky_golay", window_length=window, degree=2)
        velocity = np.array(gaze.samples["velocity"].to_list(), np.float64)
        # The span of n samples is n - 1 steps.
        events = pm.events.ivt(velocity, minimum_duration=least - 1, velocity_threshold=settings.velocity)
    else:
        position = np.array(gaze.samples["position"].to_list(), np.float64)
        events = pm.events.idt(position, minimum_duration=least, dispersion_threshold=settings.dispersion)
    return [(int(first), int(last)) for first, last in events.frame.select("onset", "offset").iter_rows()]
