"""The classes that a table of gaze names, in the order of their labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from gazeseg_serve.errors import DatasetError

from .rows import Row
from .scan_paths import DEFAULT_CLASS, MALFORMED

_LONGEST = 100
_UNSAFE = re.compile(r'[\x00-\x1f/\\:*?"<>|]|^\.|[. ]$')


def row_label(row: Row) -> str:
    """The class of a row as its cell says it; "" where it says none."""
    return "" if row.reason == MALFORMED else row.label


def class_names(path: Path, rows: Sequence[str], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes in label order, from the class of every row ("" where it says none) and what the user asked for.

    Raises DatasetError for a table without rows, classes that are repeated or that the table does not tell apart, and
    a name that could not be a folder's: maps are written by class.
    """
    if not rows:
        raise DatasetError(f"{path} has no row below its header; record gaze first")
    found = {name for name in rows if name}
    if classes:
        if len(set(classes)) != len(classes) or not all(classes):
            raise DatasetError(f"the classes {', '.join(classes)} are not distinct names")
        if len(classes) > 1 and not found:
            raise DatasetError(f"{path} says no class for its rows; add a CLASS column, or write one table a class")
        names = tuple(classes)
    elif not found:
        names = (DEFAULT_CLASS,)
    elif all(name.isdecimal() for name in found):
        names = tuple(sorted(found, key=int))
    else:
        names = tuple(sorted(found))
    for name in names:
        if _UNSAFE.search(name) or len(name) > _LONGEST:
            raise DatasetError(
                f"{path}: the class {name[:_LONGEST]!r} cannot be a folder's name; use up to {_LONGEST} letters and digits"
            )
    if len({name.casefold() for name in names}) < len(names):
        raise DatasetError(f"{path}: classes differ in case alone ({', '.join(names)}); spell each in one way")
    return names
