"""What a gaze file turned out to be: the tracker's format, its table, and what its columns mean."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gazeseg_serve.errors import DatasetError

from .csv_table import Table, fold
from .mapping import Area, Columns, Screen, Units


class NotGazeError(DatasetError):
    """A file of a known program that holds no gaze of an image; among others it is left aside, alone it is an error."""


@dataclass(frozen=True)
class Layout:
    """One file, ready to be read.

    name, how   the format, and by what it was recognised, for people
    only        cells that a column must hold for a row to be gaze at all
    areas       where single images stood on the screen, by the name that the file gives them
    image       the image of all rows, where no column says it
    reader      the reader of all rows, likewise; label: the class of all rows
    recording   what two files share that hold the same recording in two forms; only the first one is read
    made        whether the table was made here of a file that is none, so that its columns are nobody's to name
    image_size  (width, height) of the image to which image pixels belong, where no column says it
    """

    name: str
    how: str
    table: Table
    columns: Columns
    units: Units
    screen: Screen = field(default_factory=Screen)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    area: Area | None = None
    areas: Mapping[str, Area] = field(default_factory=dict)
    image: str | None = None
    reader: str | None = None
    label: str | None = None
    recording: str | None = None
    made: bool = False
    image_size: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    def replace(self, **changes: object) -> Layout:
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


class Header:
    """The header of a table, to look for a format's columns in."""

    def __init__(self, names: Sequence[str]) -> None:
        self._own: dict[str, str] = {}
        for name in names:
            self._own.setdefault(fold(name), name)

    def __contains__(self, name: str) -> bool:
        return fold(name) in self._own

    def has(self, *names: str) -> bool:
        """Whether all these columns are there."""
        return all(name in self for name in names)

    def first(self, *names: str) -> str | None:
        """The header's own spelling of the first of these columns that is there."""
        return next((self._own[fold(name)] for name in names if name in self), None)

    def like(self, pattern: str) -> str | None:
        """The first column whose name, folded, matches a regular expression as a whole."""
        return next((own for name, own in self._own.items() if re.fullmatch(pattern, name)), None)

    def pairs(self, *patterns: tuple[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The x and y columns of those pairs of names that are there, both of them."""
        found = [(self.first(x), self.first(y)) for x, y in patterns]
        both = [(x, y) for x, y in found if x is not None and y is not None]
        return tuple(x for x, _ in both), tuple(y for _, y in both)


def unit_in(name: str | None) -> str | None:
    """The unit of time in a column's brackets, as s, ms, us or ns."""
    match = re.search(r"[\[(]([^\])]*)[\])]\s*$", fold(name or ""))
    known = {"s": "s", "sec": "s", "secs": "s", "seconds": "s", "in secs": "s", "ms": "ms", "us": "us", "μs": "us", "ns": "ns"}
    return known.get(match[1].strip()) if match else None


def stem_of(path: Path) -> str:
    """A file's name without its endings, `.tsv.gz` being two."""
    name = path.name
    while Path(name).suffix.lower() in (".gz", ".csv", ".tsv", ".txt", ".asc", ".json", ".xdf", ".xlsx", ".xls"):
        name = Path(name).stem
    return name
