"""Fixation tables: a CSV in the columns of EyeLink Data Viewer becomes one checked scan path an image.

Nothing is lost silently: every row that is left out is kept in `FixationTable.dropped` with its file, line and reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gazeseg_serve.errors import DatasetError

from .csv_table import match_stem, number, read_table

IMAGE, CLASS = "IMAGE", "CLASS"
INDEX, START = "CURRENT_FIX_INDEX", "CURRENT_FIX_START"
X, Y, DURATION = "CURRENT_FIX_X", "CURRENT_FIX_Y", "CURRENT_FIX_DURATION"
REQUIRED = (IMAGE, X, Y, DURATION)
COLUMNS = (IMAGE, INDEX, X, Y, DURATION, "CURRENT_FIX_PUPIL", START, "IMAGE_HEIGHT", "IMAGE_WIDTH")
DEFAULT_CLASS = "lesion"

OFF_SCREEN = "outside the image"
NOT_A_NUMBER = "not a number"
NEGATIVE = "negative duration"
UNKNOWN_IMAGE = "unknown image"
UNKNOWN_CLASS = "unknown class"
DUPLICATE = "duplicated index"
BACKWARDS = "time runs backwards"
MALFORMED = "wrong number of cells"
OFF_SAMPLE = "raw sample off the screen"
LOST = "no gaze in a raw sample"  # a blink or a lost track: counted, not listed
REASONS = (OFF_SCREEN, NOT_A_NUMBER, NEGATIVE, UNKNOWN_IMAGE, UNKNOWN_CLASS, DUPLICATE, BACKWARDS, MALFORMED)


@dataclass(frozen=True)
class ScanPath:
    """The fixations of one image, in the order of the file.

    x, y        `(K,)` float64 in [0, 1], share of the image's width and height, origin top left
    duration    `(K,)` float64, ms, >= 0
    label       `(K,)` int64: the class a fixation belongs to, 1 for the first; all 1 where there is one class
    """

    x: np.ndarray
    y: np.ndarray
    duration: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    @property
    def gaze_ms(self) -> float:
        """Total duration, ms."""
        return float(self.duration.sum())

    def of(self, label: int) -> ScanPath:
        """The fixations of one class."""
        chosen = self.label == label
        return ScanPath(self.x[chosen], self.y[chosen], self.duration[chosen], self.label[chosen])


@dataclass(frozen=True)
class Dropped:
    """One row that was left out: where it stands (the header is line 1), and why (one of `REASONS`)."""

    file: str
    line: int
    image: str
    reason: str


@dataclass(frozen=True)
class FixationTable:
    """Checked scan paths by image stem, and everything that was left out.

    skipped holds the stems that end without a usable fixation; classes are the names in label order; lost counts the
    raw samples without gaze, which are gaps and no fault of the table.
    """

    paths: Mapping[str, ScanPath]
    classes: tuple[str, ...] = (DEFAULT_CLASS,)
    dropped: tuple[Dropped, ...] = ()
    skipped: tuple[str, ...] = ()
    lost: int = 0

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were dropped, by reason."""
        counts = Counter(row.reason for row in self.dropped) + Counter({LOST: self.lost})
        return dict(sorted(counts.items()))

    def require_clean(self) -> None:
        """Raises DatasetError naming the first dropped rows and skipped images, where there are any."""
        problems = [f"{row.file}, line {row.line}: {row.reason}" for row in self.dropped]
        problems += [f"no fixation for image {stem}" for stem in self.skipped]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise DatasetError(f"{len(problems)} problem(s) in the fixations: {shown}. Mend the table, or allow drops")


def read_fixations(path: Path | str, stems: Iterable[str], classes: Sequence[str] | None = None) -> FixationTable:
    """Read and check one fixation table, or a folder with one table a class (`<CLASS>.csv`).

    Columns IMAGE, CURRENT_FIX_X, CURRENT_FIX_Y (in [0, 1]) and CURRENT_FIX_DURATION (ms) must be there;
    CURRENT_FIX_INDEX, CURRENT_FIX_START (ms) and CLASS are checked where they are. Cells are separated by commas,
    tabs or semicolons. IMAGE is matched with `stems` by its stem. `classes` names the classes in label order;
    by default they are taken from the CLASS column (or the folder's files), numbers in order, else by name.

    Rows that cannot be used are dropped and listed: outside the image, not a number, a negative duration, an unknown
    image or class, an index given twice, a start before the one above it.
    Raises DatasetError for a file that is missing, is no CSV table, lacks a column, is empty or keeps no row.
    """
    path, stems = Path(path), tuple(stems)
    if path.is_dir():
        files = {file.stem: file for file in sorted(path.glob("*.csv"))}
        if not files:
            raise DatasetError(f"{path} holds no .csv file; put one fixation table a class there, named <CLASS>.csv")
        rows = [row for name, file in files.items() for row in _rows(file, name)]
    else:
        rows = list(_rows(path, None))
    names = class_names(path, [row.class_name or "" for row in rows], classes)
    return _collect(path, rows, stems, names)


@dataclass(frozen=True)
class _Row:
    file: str
    line: int
    cells: Mapping[str, str] | None  # None: the wrong number of cells
    class_name: str | None


def _rows(path: Path, class_name: str | None) -> Iterator[_Row]:
    for line, cells in read_table(path, REQUIRED):
        yield _Row(str(path), line, cells, class_name or (cells or {}).get(CLASS))


def class_names(path: Path, rows: Sequence[str], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes in label order, from the class of every row ("" where it says none) and what the user asked for.

    Raises DatasetError for a table without rows, or classes that are repeated or that the table does not tell apart.
    """
    if not rows:
        raise DatasetError(f"{path} has no row below its header; record gaze first")
    found = {name for name in rows if name}
    if classes:
        if len(set(classes)) != len(classes) or not all(classes):
            raise DatasetError(f"the classes {', '.join(classes)} are not distinct names")
        if len(classes) > 1 and not found:
            raise DatasetError(f"{path} says no class for its rows; add a CLASS column, or write one table a class")
        return tuple(classes)
    if not found:
        return (DEFAULT_CLASS,)
    if all(name.isdecimal() for name in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _collect(path: Path, rows: list[_Row], stems: tuple[str, ...], classes: tuple[str, ...]) -> FixationTable:
    known, labels = set(stems), {name: i for i, name in enumerate(classes, start=1)}
    kept: dict[str, list[tuple[float, float, float, int]]] = {}
    indices: set[tuple[str, int, str]] = set()
    clock: dict[tuple[str, int], float] = {}
    dropped = []
    for row in rows:
        stem, reason = "", MALFORMED
        if row.cells is not None:
            stem = match_stem(row.cells[IMAGE], known)
            label = labels.get(row.class_name, 0) if row.class_name else (1 if len(classes) == 1 else 0)
            x, y, duration = (number(row.cells[name]) for name in (X, Y, DURATION))
            start = number(row.cells[START]) if START in row.cells else None
            index = (stem, label, row.cells[INDEX]) if INDEX in row.cells else None
            reason = _check(
                stem in known, label, x, y, duration, start, clock.get((stem, label)), index is not None and index in indices
            )
            if not reason:
                kept.setdefault(stem, []).append((x, y, duration, label))
                if index is not None:
                    indices.add(index)
                if start is not None:
                    clock[stem, label] = start
        if reason:
            dropped.append(Dropped(row.file, row.line, stem, reason))
    return table_of(path, kept, classes, dropped, known)


def table_of(
    path: Path,
    kept: Mapping[str, list[tuple[float, float, float, int]]],
    classes: tuple[str, ...],
    dropped: list[Dropped],
    known: set[str],
    lost: int = 0,
) -> FixationTable:
    """A table of fixations (x, y, duration, label) by stem; DatasetError where none is kept."""
    if not kept:
        why = f"the first, {dropped[0].file}, line {dropped[0].line}: {dropped[0].reason}" if dropped else "no gaze in it"
        raise DatasetError(f"{path}: none of it can be used ({len(dropped)} row(s) dropped); {why}")
    paths = {stem: _scan_path(kept[stem]) for stem in sorted(kept)}
    return FixationTable(paths, classes, tuple(dropped), tuple(stem for stem in sorted(known) if stem not in paths), lost)


def _check(
    known: bool, label: int, x: float, y: float, duration: float, start: float | None, last_start: float | None, seen: bool
) -> str:
    """The first reason against a row, or ""."""
    if not known:
        return UNKNOWN_IMAGE
    if label == 0:
        return UNKNOWN_CLASS
    if not all(math.isfinite(value) for value in (x, y, duration, 0.0 if start is None else start)):
        return NOT_A_NUMBER
    if not (0 <= x <= 1 and 0 <= y <= 1):
        return OFF_SCREEN
    if duration < 0:
        return NEGATIVE
    if seen:
        return DUPLICATE
    if start is not None and last_start is not None and start < last_start:
        return BACKWARDS
    return ""


def _scan_path(rows: list[tuple[float, float, float, int]]) -> ScanPath:
    x, y, duration, label = (np.array(column) for column in zip(*rows, strict=True))
    return ScanPath(x.astype(np.float64), y.astype(np.float64), duration.astype(np.float64), label.astype(np.int64))


def write_fixations(
    path: Path, paths: Mapping[str, ScanPath], sizes: Mapping[str, tuple[int, int]], classes: Sequence[str] = (DEFAULT_CLASS,)
) -> None:
    """Write scan paths as a fixation table that `read_fixations` reads; `sizes` are (height, width) by stem.

    The time between two fixations is not kept in a scan path; a start follows the end before it by 20 ms, about the
    gap measured between fixations of an EyeLink. A CLASS column is written where there are several classes.
    """
    from gazeseg_serve.files import write_text

    several = len(classes) > 1
    lines = [",".join((*COLUMNS, CLASS) if several else COLUMNS)]
    for stem, scan in paths.items():
        height, width = sizes[stem]
        start = dict.fromkeys(range(1, len(classes) + 1), 7.0)
        count = Counter()  # type: Counter[int]
        for x, y, duration, label in zip(scan.x, scan.y, scan.duration, scan.label, strict=True):
            count[int(label)] += 1
            cells = [
                f"{stem}.png",
                str(count[int(label)]),
                repr(float(x)),
                repr(float(y)),
                f"{duration:g}",
                "0",
                f"{start[int(label)]:g}",
                str(height),
                str(width),
            ]
            lines.append(",".join(cells + ([classes[int(label) - 1]] if several else [])))
            start[int(label)] += float(duration) + 20
    write_text(path, "\n".join(lines) + "\n")
