"""How long a reader looked at each image, and how much of it the tracker had lost the eye: by gaps and empty rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from . import bounds
from .rows import Row
from .scan_paths import LOST, OFF_SAMPLE

SACCADE = 100.0  # ms: between two fixations an eye moves for less; a longer gap is a blink or a lost track


@dataclass
class Looked:
    """Time at one image in ms, where the rows have times, and how much of what was recorded is without gaze.

    lost, all   in ms or in samples; 0 where the table does not tell
    """

    lost: float = 0.0
    all: float = 0.0
    ms: float = 0.0


def track_loss(rows: Sequence[Row], fixations: bool, found: dict[str, Looked]) -> None:
    """Add one file's rows, samples or `fixations`, to what is `found` by image; what a table does not tell stays out."""
    looks: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        looks.setdefault((row.image, row.reader, row.trial, row.label), []).append(row)
    for (image, *_), look in looks.items():
        one = _of_fixations(look) if fixations else _of_samples(look)
        whole = found.setdefault(image, Looked())
        whole.lost += one.lost
        whole.all += one.all
        whole.ms += one.ms


def shares(found: Mapping[str, Looked], images: Iterable[str]) -> dict[str, float]:
    """The share of the time without gaze, of those of `images` of which it is known."""
    return {stem: found[stem].lost / found[stem].all for stem in images if stem in found and found[stem].all}


def seconds(found: Mapping[str, Looked], images: Iterable[str]) -> dict[str, float]:
    """The seconds that readers looked at each of `images`, of those of which it is known."""
    return {stem: found[stem].ms / 1000 for stem in images if stem in found and found[stem].ms}


def _of_fixations(look: Sequence[Row]) -> Looked:
    """From the gaps between fixations, where their starts are known; else from the rows without a place."""
    timed = sorted((row.time, row.duration) for row in look if not row.reason and _finite(row.time, row.duration, row.x, row.y))
    if len(timed) < 2:
        empty = sum(row.reason == LOST for row in look)
        whole = sum(row.duration for row in look if math.isfinite(row.duration))  # at least
        return Looked(empty, len(look) if empty else 0, whole)
    one = Looked(0.0, sum(duration for _, duration in timed))
    for (start, duration), (following, _) in itertools.pairwise(timed):
        gap = following - start - duration
        if 0 < gap <= bounds.JUMP:
            one.all += gap
            one.lost += max(0.0, gap - SACCADE)
    one.ms = one.all
    return one


def _of_samples(look: Sequence[Row]) -> Looked:
    """From the samples without gaze, and those that are missing."""
    kept = [row for row in look if row.reason in ("", LOST, OFF_SAMPLE)]
    one = Looked(sum(row.reason == LOST for row in kept), len(kept))
    times = [row.time for row in kept if math.isfinite(row.time)]
    interval = bounds.interval(times) if len(times) > 1 else math.nan
    if math.isnan(interval):
        return one
    for earlier, later in itertools.pairwise(times):
        if max(SACCADE, 1.5 * interval) < later - earlier <= bounds.JUMP:
            missing = (later - earlier) / interval - 1
            one.lost += missing
            one.all += missing
    one.ms = one.all * interval
    return one


def _finite(*values: float) -> bool:
    return all(map(math.isfinite, values))
