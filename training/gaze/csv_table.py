"""CSV tables as people's tools write them, read row by row with the line each row stands on."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from gazeseg_serve.errors import DatasetError


def read_table(path: Path, required: Sequence[str]) -> Iterator[tuple[int, dict[str, str] | None]]:
    """The rows of a CSV table: line number, and cells by column, None where their number is wrong; blank lines left out.

    Cells are separated by commas, tabs or semicolons. Raises DatasetError for a file that is missing, is no table or
    lacks a column of `required`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; a dataset folder needs its fixations there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); save it as a UTF-8 CSV table") from error
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=header.count))
    try:
        names = [name.strip() for name in next(reader, [])]
        missing = [name for name in required if name not in names]
        if missing:
            raise DatasetError(f"{path} lacks the column(s) {', '.join(missing)}; its header is: {', '.join(names) or 'empty'}")
        for cells in reader:
            if any(cell.strip() for cell in cells):
                right = len(cells) == len(names)
                yield reader.line_num, dict(zip(names, map(str.strip, cells), strict=True)) if right else None
    except csv.Error as error:
        raise DatasetError(f"{path}, line {reader.line_num}: {error}; save it as a plain CSV table") from error


def number(cell: str) -> float:
    """The number in a cell; NaN where it is none."""
    try:
        return float(cell)
    except ValueError:
        return math.nan


def match_stem(image: str, known: set[str]) -> str:
    """The stem that an IMAGE cell means: the cell's file name where it is one, else that name without its suffix."""
    name = image.replace("\\", "/").rpartition("/")[2]
    return name if name in known else Path(name).stem
