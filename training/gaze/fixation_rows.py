"""Rows that are fixations already, as trackers' reports list them: checked, and kept apart by reading."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gazeseg_serve.errors import DatasetError

from .bounds import LONGEST_FIXATION
from .layout import Layout
from .rows import Row
from .scan_paths import (
    BACKWARDS,
    DUPLICATE,
    LOST,
    NEGATIVE,
    NOT_A_NUMBER,
    OFF_SCREEN,
    TOO_LONG,
    UNKNOWN_CLASS,
    Dropped,
)

READING = "reading "  # and a number: a reader whom no column names
Fixation = tuple[float, float, float, int]  # x, y, duration, label


@dataclass
class Found:
    """What was found in any file: fixations by image and reader, what was left out, what a user should know."""

    kept: dict[tuple[str, str], list[Fixation]] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    lost: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def drop(self, row: Row, reason: str) -> None:
        if reason == LOST:
            self.lost += 1
        else:
            self.dropped.append(Dropped(row.file, row.line, row.image, reason))


def collect(layout: Layout, rows: Sequence[Row], labels: Mapping[str, int], found: Found) -> None:
    """Add the fixations of one file to `found`. Raises DatasetError where the numbers are in another unit than is said."""
    check_units(layout, rows)
    readings: dict[tuple[str, str, str, int], list[_Reading]] = {}
    restarted: set[str] = set()
    for row in rows:
        label = labels.get(row.label, 0) if row.label else int(len(labels) == 1)
        reason = row.reason or _check(row, label)
        if not reason:
            several = readings.setdefault((row.image, row.reader, row.trial, label), [_Reading()])
            if several[-1].restarts(row):
                several.append(_Reading())
                restarted.add(row.image)
            reason = several[-1].add(row)
        if reason:
            found.drop(row, reason)
            continue
        reading = len(readings[row.image, row.reader, row.trial, label])
        # A reading that starts anew is another reader's or a repeated trial's: kept apart where no column says whose.
        reader = row.reader or (f"{READING}{reading}" if row.image in restarted and reading > 1 else "")
        found.kept.setdefault((row.image, reader), []).append((row.x, row.y, row.duration, label))
    if restarted:
        found.notes.append(
            f"{layout.table.path.name}: the fixations of {len(restarted)} image(s) start anew ({min(restarted)} for one): "
            "they are taken for several readings; say columns.reader in gaze.toml if a column names the reader"
        )


@dataclass
class _Reading:
    """One reading of one image: its indices, first index and clock so far."""

    indices: set[str] = field(default_factory=set)
    first: str | None = None
    clock: float = -math.inf

    def restarts(self, row: Row) -> bool:
        """Whether a row begins another reading: it has the first index again, and an earlier time than the row above."""
        return row.index != "" and row.index == self.first and len(self.indices) > 1 and not row.time >= self.clock

    def add(self, row: Row) -> str:
        """The reason against the next row, or "" once it is added."""
        if row.index and row.index in self.indices:
            return DUPLICATE
        if row.time < self.clock:
            return BACKWARDS
        if row.index:
            self.first = self.first or row.index
            self.indices.add(row.index)
        if not math.isnan(row.time):
            self.clock = row.time
        return ""


def _check(row: Row, label: int) -> str:
    """The first reason against a row, or ""."""
    if label == 0:
        return UNKNOWN_CLASS
    if not all(map(math.isfinite, (row.x, row.y, row.duration))):
        return NOT_A_NUMBER
    if not (0 <= row.x <= 1 and 0 <= row.y <= 1):
        return OFF_SCREEN
    if row.duration < 0:
        return NEGATIVE
    return TOO_LONG if row.duration > LONGEST_FIXATION else ""


def one_eye(layout: Layout, rows: list[Row], found: Found) -> list[Row]:
    """The rows of the eye with more of them, where each eye has rows of its own: they are the same looks twice."""
    eyes = Counter(row.eye for row in rows if row.eye and not row.reason)
    if len(eyes) < 2:
        return rows
    (chosen, count), *others = eyes.most_common()
    left = sum(count for _, count in others)
    found.notes.append(
        f"{layout.table.path.name}: each eye has rows of its own; those of {chosen} are read ({count}, not {left})"
    )
    return [row for row in rows if row.eye in ("", chosen)]


def check_units(layout: Layout, rows: Iterable[Row]) -> None:
    """Raises DatasetError where durations can only be in another unit, naming it and the fix."""
    path = layout.table.path
    good = [row for row in rows if row.reason == ""]
    durations = [row.duration for row in good if math.isfinite(row.duration)]
    if durations and layout.columns.duration is not None:
        typical, largest_duration = sorted(durations)[len(durations) // 2], max(durations)
        fractions = any(value != round(value) for value in durations)
        said = layout.units.duration or layout.units.time or "ms"
        for wrong, unit in ((0 < largest_duration < 20 and fractions, "s"), (typical > LONGEST_FIXATION, "us")):
            if wrong:
                raise DatasetError(
                    f"{path}: fixations of {typical:g} ms are none; durations are in {unit}, not in {said}: "
                    f'write a gaze.toml with files = ["{path.name}"] and under [units] duration = "{unit}"'
                )
