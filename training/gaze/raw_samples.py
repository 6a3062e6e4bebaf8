"""Raw samples of any tracker to fixations: a look at an image at a time, within bounds checked before any work."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from gazeseg_serve.errors import DatasetError

from . import bounds
from .detection import Detected, Detection, detect
from .fixation_rows import Found
from .layout import Layout
from .mapping import AUTO, MILLISECONDS, fit
from .names import ImageNames
from .rows import Row
from .scan_paths import BACKWARDS, DOUBLED, LOST, OFF_SCREEN, UNKNOWN_CLASS

Look = list[Row]
_FIXATIONS = (0.2, 15.0)  # rows a second of a list of fixations


def collect(
    layout: Layout, rows: Sequence[Row], labels: Mapping[str, int], detection: Detection, images: ImageNames, found: Found
) -> None:
    """Detect the fixations of one file and add them to `found`.

    Left out and listed: rows with a cell that is no number, off the screen, of an unknown image or class, or with a time
    not above the one before; fixations outside the image (by the line of their first sample). Samples without gaze are
    gaps, only counted. Raises DatasetError where no look of the file has a tracker's sampling rate.
    """
    looks: dict[tuple[str, str, str, int], Look] = {}
    for row in rows:
        if row.reason not in ("", LOST):
            found.drop(row, row.reason)
            continue
        label = labels.get(row.label, 0) if row.label else int(len(labels) == 1)
        if label == 0:
            found.drop(row, UNKNOWN_CLASS)
        else:
            looks.setdefault((row.image, row.reader, row.trial, label), []).append(row)
            found.lost += row.reason == LOST
    _check_units(layout, list(looks.values()))
    jumps: Counter[str] = Counter()
    for (stem, reader, _, label), look in looks.items():
        kept = _in_time(look, found)
        why = _unusable(kept)
        if why:
            found.skipped.setdefault(stem, why)
            continue
        jumps[stem] += sum(b.time - a.time > bounds.JUMP for a, b in itertools.pairwise(kept))
        for (x, y, duration), first in _fixations(layout, kept, detection, images):
            if 0 <= x <= 1 and 0 <= y <= 1:
                found.kept.setdefault((stem, reader), []).append((x, y, duration, label))
            else:
                found.drop(first, OFF_SCREEN)
    if any(jumps.values()):
        stem, count = jumps.most_common(1)[0]
        found.notes.append(f"{layout.table.path.name}: the clock jumps by more than a minute within {stem} ({count} time(s))")


def _check_units(layout: Layout, looks: Sequence[Look]) -> None:
    """Raises DatasetError where no look has the sampling rate of a tracker, naming the unit in which it would."""
    rates = [bounds.rate_of([row.time for row in look]) for look in looks if len(look) > 1]
    rates = [rate for rate in rates if math.isfinite(rate)]
    if not rates or not all(bounds.wrong_rate(rate) for rate in rates):
        return
    rate, said = float(np.median(rates)), layout.units.time or "ms"
    low, high = bounds.RATE
    # The times are in ms here; in the unit that the file was said to have, a step is this long.
    step = 1000 / rate / MILLISECONDS[said]
    unit = bounds.unit_of_rate([0, step])
    fixes = []
    if _FIXATIONS[0] <= rate < low:
        fixes.append("a table of fixations, not of raw gaze, needs columns.duration in gaze.toml")
    if unit is not None:
        other = 1000 / (step * MILLISECONDS[unit])
        fixes.append(f'read in "{unit}" it would be {other:.4g}: write time = "{unit}" under [units] in gaze.toml')
    fix = "; or ".join(fixes) or "look at its column of time"
    raise DatasetError(
        f"{layout.table.path} has {rate:.4g} samples a second, its times read in {said}; "
        f"{low:g} to {high:g} are a tracker's. {fix}"
    )


def with_unit(layout: Layout, rows: Sequence[Row]) -> Layout:
    """The layout with its unit of time, told by the sampling rate where the format does not say it; rows are rescaled."""
    if layout.units.time != AUTO:
        return layout
    looks: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if math.isfinite(row.time) and row.reason in ("", LOST):
            looks.setdefault((row.image, row.reader, row.trial), []).append(row.time)
    steps = [step for times in looks.values() if math.isfinite(step := bounds.interval(times))]
    unit = bounds.unit_of_rate([0, float(np.median(steps))]) if steps else None
    for row in rows:
        row.time *= MILLISECONDS[unit or "ms"]
    return layout.replace(units=layout.units.with_time(unit or "ms"))


def _in_time(look: Look, found: Found) -> Look:
    """The samples whose time is above all before them; the others are dropped."""
    kept, last = [], -math.inf
    for row in look:
        if row.time > last:
            kept.append(row)
            last = row.time
        else:
            found.drop(row, DOUBLED if row.time == last else BACKWARDS)
    return kept


def _unusable(look: Look) -> str:
    """Why a look at an image cannot be used, or ""."""
    rate = bounds.rate_of([row.time for row in look])
    low, high = bounds.RATE
    if not math.isfinite(rate):
        return f"{len(look)} raw sample(s) are too few for a fixation"
    if bounds.wrong_rate(rate):
        return f"{rate:.3g} raw samples a second; {low:g} to {high:g} are a tracker's"
    lasting = sum(b.time - a.time for a, b in itertools.pairwise(look) if b.time - a.time <= bounds.JUMP)
    if lasting > bounds.LONGEST_LOOK:
        return f"{lasting / 60000:.0f} minutes of gaze; the clock or the image's name is wrong"
    return ""


def _fixations(
    layout: Layout, look: Look, detection: Detection, images: ImageNames
) -> list[tuple[tuple[float, float, float], Row]]:
    """(x, y, duration) in shares of the image and ms, with the first sample of each fixation."""
    monitor = layout.screen.monitor()
    stem = look[0].image
    area = next((row.area for row in look if row.area is not None), None) or fit(monitor, images.size(stem) or (1, 1))
    time, x, y = (np.array([getattr(row, name) for row in look], np.float64) for name in ("time", "x", "y"))
    across, down = area.left + x * area.width, area.top + y * area.height
    shares = []
    # A gap that is too long to be bridged ends a fixation anyway; cut there, a jump of the clock costs no memory.
    step = bounds.interval(time)
    for part in _stretches(time, max(10 * detection.max_gap_ms, 1.5 * step)):
        found: Detected = detect(time[part], across[part], down[part], monitor, detection)
        places = zip(
            (found.x - area.left) / area.width, (found.y - area.top) / area.height, found.duration, found.first, strict=True
        )
        for u, v, duration, first in places:
            shares.append(((float(u), float(v), float(duration)), look[part.start + int(first)]))
    return shares


def _stretches(time: np.ndarray, longest: float) -> list[slice]:
    """The stretches of rising times without a gap above `longest`."""
    cuts = [0, *(np.flatnonzero(np.diff(time) > longest) + 1).tolist(), len(time)]
    return [slice(a, b) for a, b in itertools.pairwise(cuts)]
