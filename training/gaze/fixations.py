"""Fixation tables: reading one without a dataset around it, and writing one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .gazemedseg import CLASS, COLUMNS
from .names import ImageNames
from .scan_paths import DEFAULT_CLASS, FixationTable, ScanPath
from .sources import read_for

__all__ = ["FixationTable", "ScanPath", "read_fixations", "write_fixations"]


def read_fixations(path: Path | str, stems: Iterable[str], classes: Sequence[str] | None = None) -> FixationTable:
    """Read and check one fixation table, or a folder with one table a class (`<CLASS>.csv`), for images known by name.

    Columns IMAGE, CURRENT_FIX_X, CURRENT_FIX_Y (in [0, 1]) and CURRENT_FIX_DURATION (ms) must be there;
    CURRENT_FIX_INDEX, CURRENT_FIX_START (ms), CLASS and READER are read where they are. IMAGE is matched with `stems`.
    `classes` names the classes in label order; by default they are taken from the CLASS column (or the folder's files),
    numbers in order, else by name.

    Rows that cannot be used are dropped and listed: outside the image, not a number, a negative duration, an unknown
    image or class, an index given twice, a start before the one above it.
    Raises DatasetError for a file that is missing, is no table, lacks a column, is empty or keeps no row.
    """
    return read_for(Path(path), ImageNames(stems), classes)


def write_fixations(
    path: Path,
    paths: Mapping[str, ScanPath],
    sizes: Mapping[str, tuple[int, int]],
    classes: Sequence[str] = (DEFAULT_CLASS,),
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
