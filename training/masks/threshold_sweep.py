"""Which thresholds? Every threshold of a grid, and every pair, over a masks folder: evidence before any training.

Label-free: area, steadiness (how little a mask changes when its threshold moves), agreement of heatmap and refined map.
With true masks: Dice. Every figure comes from one histogram an image, so a fine grid costs no more than a coarse one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.metrics import bootstrap_interval, is_dead
from gazeseg_serve.progress import track

from .folder import MasksInfo, load_map, load_masks_info
from .settings import check_thresholds

GRID = tuple(round(0.05 * i, 2) for i in range(2, 18))  # 0.1 to 0.85
_NAMES = {"heatmap": "heatmap", "refined": "refined map"}
_MOVE = 0.1  # by which a threshold is moved to see how steady it is
_CLOSE = 0.01  # a Dice within this of the best is as good


@dataclass(frozen=True)
class Recommendation:
    """Two thresholds for two levels (the higher one first), on which map, and why.

    plateau     lowest and highest threshold whose mean Dice is within 0.01 of the best; None without true masks
    """

    thresholds: tuple[float, float]
    maps: str
    reason: str
    plateau: tuple[float, float] | None


@dataclass(frozen=True)
class ThresholdSweep:
    """Figures over T thresholds and N images; a figure that needs what is not there is None.

    area, steady    `(T, N)` share of the image; Dice of the masks cut 0.1 below and 0.1 above (NaN beyond the grid)
    crf_agreement   `(T, N)` Dice of heatmap and refined map, both cut at the threshold
    dice            by map, "heatmap" and "refined": `(T, M)` mean Dice of the classes on the M images with a true mask
    agreement       `(T, T)` mean Dice of two levels cut at the two thresholds
    maps            the map that area, steady and agreement are of
    """

    grid: tuple[float, ...]
    maps: str
    area: np.ndarray
    steady: np.ndarray
    agreement: np.ndarray
    crf_agreement: np.ndarray | None
    dice: dict[str, np.ndarray]

    def pair_dice(self, maps: str) -> np.ndarray:
        """`(T, T)`: mean Dice of the two levels of each pair."""
        mean = self.dice[maps].mean(axis=1)
        return (mean[:, None] + mean[None]) / 2

    def rows(self) -> list[dict[str, float]]:
        """One row a threshold: means over the images."""
        rows = []
        for i, threshold in enumerate(self.grid):
            dead = np.array([is_dead(share) for share in self.area[i]])
            row = {
                "threshold": threshold,
                "area": float(self.area[i].mean()),
                "dead": float(dead.mean()),
                "steady": float(self.steady[i].mean()),
            }
            if self.crf_agreement is not None:
                row["crf_agreement"] = float(self.crf_agreement[i].mean())
            for name, values in self.dice.items():
                low, high = bootstrap_interval(values[i])
                row |= {f"dice_{name}": float(values[i].mean()), f"dice_{name}_low": low, f"dice_{name}_high": high}
            rows.append(row)
        return rows


def parse_grid(text: str) -> tuple[float, ...]:
    """Read "0.1:0.9:0.05" (from, to, step) or "0.1,0.2,0.3". Raises ConfigError."""
    try:
        if ":" in text:
            first, last, step = (float(part) for part in text.split(":"))
            if not (step > 0 and (last - first) / step < 200):
                raise ValueError
            values = [round(first + i * step, 6) for i in range(int(np.floor((last - first) / step + 1e-6)) + 1)]
        else:
            values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"grid {text!r} is not FROM:TO:STEP or a list; write it like 0.1:0.8:0.05") from None
    return check_grid(values)


def check_grid(values: Sequence[float]) -> tuple[float, ...]:
    """The thresholds in rising order; ConfigError unless there are at least two, distinct and in (0, 1)."""
    if len(values) < 2:
        raise ConfigError("a grid needs at least two thresholds; write it like 0.1:0.8:0.05")
    return tuple(sorted(check_thresholds(values)))


def sweep_thresholds(
    masks: Path | str, dataset: Path | str | None = None, grid: Sequence[float] = GRID, stems: Sequence[str] | None = None
) -> ThresholdSweep:
    """Measure every threshold of `grid` on the maps of a masks folder.

    `dataset` with `masks/` adds Dice; `stems` chooses images (default: all). Raises DatasetError for a folder that is not
    finished or images it does not hold, ConfigError for the grid.
    """
    masks, grid = Path(masks), check_grid(grid)
    info, data = load_masks_info(masks), Dataset.open(dataset) if dataset is not None else None
    chosen = tuple(stems) if stems is not None else info.stems
    unknown = sorted(set(chosen) - set(info.stems))
    if unknown or not chosen:
        raise DatasetError(f"{masks} holds no map of {unknown[0] if unknown else 'any image'}; make the masks again")
    counts = [
        _count(masks, info, data, stem, np.asarray(grid, np.float32)) for stem in track(chosen, "thresholds", len(chosen))
    ]
    final = "heatmap" if info.settings.crf is None else "refined"
    area = np.stack([c.area for c in counts], axis=1)
    nested = np.stack([[[_nested_dice(a, b) for b in c.area] for a in c.area] for c in counts])
    known = [c.dice for c in counts if c.dice]
    return ThresholdSweep(
        grid,
        final,
        area,
        _steady(grid, nested),
        nested.mean(axis=0),
        np.stack([c.crf for c in counts if c.crf is not None], axis=1) if info.settings.crf is not None else None,
        {name: np.stack([d[name] for d in known], axis=1) for name in known[0]} if known else {},
    )


def recommend(sweep: ThresholdSweep) -> Recommendation:
    """Two thresholds and the reason.

    With true masks: on the map with the better Dice, the two ends of the plateau (thresholds within 0.01 of the best),
    so that the levels differ as much as they can at no cost. Without: 0.1 above and below the steadiest threshold.
    """
    grid = np.array(sweep.grid)
    if sweep.dice:
        maps = max(sweep.dice, key=lambda name: sweep.dice[name].mean(axis=1).max())
        mean = sweep.dice[maps].mean(axis=1)
        best = int(mean.argmax())
        good = np.flatnonzero(mean >= mean[best] - _CLOSE)
        low, high = int(good.min()), int(good.max())
        if low == high:  # a steep peak or a coarse grid: the better neighbour is the other level
            near = [i for i in (best - 1, best + 1) if 0 <= i < len(grid)]
            low, high = sorted((best, max(near, key=lambda i: mean[i])))
        plateau = (float(grid[good.min()]), float(grid[good.max()]))
        reason = (
            f"with true masks, the {_NAMES[maps]} is best at {grid[best]:g} (mean Dice {mean[best]:.4f}) and within "
            f"{_CLOSE:g} of that from {plateau[0]:g} to {plateau[1]:g}; the two ends differ most at no cost"
        )
        return Recommendation((float(grid[high]), float(grid[low])), maps, reason, plateau)
    steady = np.nan_to_num(sweep.steady.mean(axis=1), nan=-1.0)
    if steady.max() < 0:
        raise ConfigError(f"the grid spans less than {2 * _MOVE:g}, too little to see which threshold is steady; widen it")
    best = int(steady.argmax())
    low, high = (int(np.abs(grid - (grid[best] + move)).argmin()) for move in (-_MOVE, _MOVE))
    reason = (
        f"without true masks: a mask changes least when its threshold moves around {grid[best]:g} (Dice "
        f"{steady[best]:.3f} between {grid[low]:g} and {grid[high]:g}), so the levels stand on both sides of it"
    )
    return Recommendation((float(grid[high]), float(grid[low])), sweep.maps, reason, None)


@dataclass(frozen=True)
class _Counts:
    area: np.ndarray
    crf: np.ndarray | None
    dice: dict[str, np.ndarray]


def _count(masks: Path, info: MasksInfo, data: Dataset | None, stem: str, grid: np.ndarray) -> _Counts:
    maps = {"heatmap": load_map(masks, stem, refined=False)}
    if info.settings.crf is not None:
        maps["refined"] = load_map(masks, stem, refined=True)
    # Bin k: the first k thresholds are reached. `label` is the class that wins the pixel.
    peaks = {name: values if values.ndim == 2 else values.max(axis=0) for name, values in maps.items()}
    bins = {name: np.searchsorted(grid, peak, side="right") for name, peak in peaks.items()}
    labels = {name: np.ones(v.shape, np.int64) if v.ndim == 2 else v.argmax(axis=0) + 1 for name, v in maps.items()}
    size = len(grid) + 1
    areas = {name: _reached(np.bincount(values.ravel(), minlength=size)) for name, values in bins.items()}
    crf = None
    if "refined" in bins:
        joint = np.bincount((bins["heatmap"] * size + bins["refined"]).ravel(), minlength=size * size).reshape(size, size)
        both = joint[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1].diagonal()[1:]
        crf = _ratio(2 * both, areas["heatmap"] + areas["refined"])
    scores = {}
    if data is not None and stem in data.masks:
        truth = data.mask(stem, len(info.classes))
        for name in maps:
            scores[name] = _class_dice(bins[name], labels[name], truth, len(info.classes), size)
    last = list(areas.values())[-1]
    return _Counts(last / bins["heatmap"].size, crf, scores)


def _class_dice(bins: np.ndarray, labels: np.ndarray, truth: np.ndarray, classes: int, size: int) -> np.ndarray:
    """Mean Dice over the classes at every threshold, `(T,)`."""
    if truth.shape != bins.shape:
        raise DatasetError(f"a true mask is {truth.shape} and its map {bins.shape}; make the masks of this dataset again")
    scores = []
    for c in range(1, classes + 1):
        mine, true = labels == c, truth == c
        predicted = _reached(np.bincount(bins[mine], minlength=size))
        shared = _reached(np.bincount(bins[mine & true], minlength=size))
        scores.append(_ratio(2 * shared, predicted + np.count_nonzero(true)))
    return np.mean(scores, axis=0)


def _reached(histogram: np.ndarray) -> np.ndarray:
    """Pixels that reach each threshold, `(T,)`, from counts by bin `(T + 1,)`."""
    return histogram[::-1].cumsum()[::-1][1:]


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Dice's quotient, 1 where both masks are empty."""
    return np.where(bottom > 0, top / np.maximum(bottom, 1), 1.0)


def _nested_dice(a: float, b: float) -> float:
    """Dice of two nested masks from their areas."""
    return 1.0 if a + b == 0 else 2 * min(a, b) / (a + b)


def _steady(grid: Sequence[float], nested: np.ndarray) -> np.ndarray:
    """`(T, N)`: Dice of the masks cut `_MOVE` below and above each threshold, NaN where the grid does not reach."""
    values = np.array(grid)
    steady = np.full((len(values), len(nested)), np.nan)
    for i, value in enumerate(values):
        low, high = (int(np.abs(values - (value + move)).argmin()) for move in (-_MOVE, _MOVE))
        if abs(values[high] - values[low] - 2 * _MOVE) < 1e-6 and low < i < high:
            steady[i] = nested[:, low, high]
    return steady


def as_dict(sweep: ThresholdSweep, recommendation: Recommendation) -> dict[str, object]:
    """For machines: plain JSON values, None where a figure is not known."""
    rows = [{name: None if np.isnan(value) else value for name, value in row.items()} for row in sweep.rows()]
    return {"recommendation": asdict(recommendation), "thresholds": rows}
