"""What the verdict is told beside the figures of each image: rows, images without gaze, track loss, and two comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gazeseg_serve.dataset import SPLIT_NAMES, Dataset
from gazeseg_serve.errors import DatasetError, GazesegError, ImageError
from gazeseg_serve.progress import track

from ..gaze.scan_paths import FixationTable
from .agreement import LEAST_IMAGES, LEAST_MASKS, Fit, fit_images, fit_masks, look, points_of
from .verdict import Evidence

SAMPLE = 150  # images that are compared at most, drawn with a fixed seed
_RUN = 15  # of neighbours by name


def gather(data: Dataset, table: FixationTable, stems: Sequence[str], sigma: float = 70.0) -> Evidence:
    """The evidence about the gaze of `table` on the images `stems`, which could be read; sigma is that of the heatmaps."""
    shown = [stem for stem in stems if stem not in data.negatives]
    with_mask = [stem for stem in shown if stem in data.masks]
    on_masks = _compare_masks(data, table, sample(with_mask), sigma)
    expected = _expected(data, set(table.paths))
    return Evidence(
        dropped=len(table.dropped) / table.rows if table.rows else 0.0,
        without_gaze=len(expected - set(stems)),
        expected=len(expected),
        track_loss=[table.track_loss[stem] for stem in stems if stem in table.track_loss],
        masks=len(with_mask),
        unmatched=len(data.unmatched),
        images=_compare_images(data, table, sample(shown)) if on_masks is None else None,
        on_masks=on_masks,
    )


def _expected(data: Dataset, with_gaze: set[str]) -> set[str]:
    """The images that should have gaze: all but those without a target, and those held out without any."""
    held_out: set[str] = set()
    for name in SPLIT_NAMES[1:]:
        file = data.root / "splits" / f"{name}.txt"
        if file.is_file():
            try:
                held_out |= set(data.splits()[name])
            except DatasetError:  # training will say it; gaze needs no split
                return set(data.images) - data.negatives
    return set(data.images) - data.negatives - (held_out - with_gaze)


def sample(stems: Sequence[str]) -> list[str]:
    """At most SAMPLE stems, in order: runs of neighbours from all over, since gaze may be that of a neighbour."""
    if len(stems) <= SAMPLE:
        return list(stems)
    runs = [range(i, i + _RUN) for i in range(0, len(stems) - _RUN + 1, _RUN)]
    chosen = np.random.default_rng(0).permutation(len(runs))[: SAMPLE // _RUN]
    return [stems[i] for run in sorted(chosen) for i in runs[run]]


def _compare_images(data: Dataset, table: FixationTable, stems: Sequence[str]) -> Fit | None:
    if len(stems) < LEAST_IMAGES:
        return None
    looks, points, aspects = [], [], []
    for stem in track(stems, "comparing gaze and images", len(stems)):
        try:
            image = data.image(stem)
        except (ImageError, OSError):  # it could be read a moment ago
            continue
        looks.append(look(image))
        points.append(points_of(table.paths[stem]))
        aspects.append(image.shape[1] / image.shape[0])
    return fit_images(np.stack(looks), points, aspects) if looks else None


def _compare_masks(data: Dataset, table: FixationTable, stems: Sequence[str], sigma: float) -> Fit | None:
    if len(stems) < LEAST_MASKS:
        return None
    masks, scans = [], []
    for stem in stems:
        try:
            mask = data.mask(stem, len(table.classes))
        except (GazesegError, OSError):
            continue
        if mask.any():  # an empty one says nothing of where to look
            masks.append(mask)
            scans.append(table.paths[stem])
    return fit_masks(masks, scans, [mask.shape[1] / mask.shape[0] for mask in masks], sigma)
