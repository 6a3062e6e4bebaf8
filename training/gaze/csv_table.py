"""Tables as people's programs write them, read a line at a time: no cell can swallow the rows below it in silence.

A quotation mark counts only where a cell begins and ends with one. A row whose number of cells is not that of the header
is handed on as None with its line, so that whoever reads the table can count it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from gazeseg_serve.errors import DatasetError

from .file_text import decode, is_workbook, read_bytes, split_lines, workbook_rows

_COMMENTS = ("#", "%", "//")
_DELIMITERS = ("\t", ";", ",", "|", " ")
_SEP = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_BRACKET = re.compile(r"\s*[\[(].*[\])]\s*$")
_LOOK = 50  # rows from which the delimiter is told, and lines that one quoted cell may span
# Cells that mean "no value", whatever their case; what a number means it in `MISSING_NUMBERS`.
MISSING = frozenset(("", ".", "-", "--", "na", "n/a", "#n/a", "nan", "-nan", "none", "null", "missing"))


@dataclass(frozen=True)
class Table:
    """A table: the names of its columns, and its rows, which can be walked again and again.

    comments    the lines above the header that began with a comment sign
    records     rows that are at hand already, as (line, cells); else `lines` from `first` on are split as they are read
    notes       what a reader of the table should be told
    """

    path: Path
    names: tuple[str, ...]
    delimiter: str = ","
    comments: tuple[str, ...] = ()
    lines: Sequence[str] = ()
    first: int = 0
    records: Sequence[tuple[int, Sequence[str] | None]] = ()
    notes: tuple[str, ...] = field(default=())

    def __iter__(self) -> Iterator[tuple[int, Sequence[str] | None]]:
        """Line (the first line of the file is 1) and cells of each row that is not blank; None: the wrong number of cells."""
        if self.records:
            yield from self.records
        else:
            yield from _rows(self.lines, self.first, self.names, self.delimiter)

    def column(self, name: str) -> str | None:
        """The header's own spelling of a column's name, or None where there is none.

        Case, spaces and the two signs for micro do not matter. A unit or a date in brackets may be left out of `name`,
        or be another date. Raises DatasetError where several columns fit.
        """
        if name in self.names and self.names.count(name) == 1:
            return name
        wanted = fold(name)
        found = [own for own in self.names if fold(own) == wanted]
        if not found and (not _BRACKET.search(name) or re.search(r"\d", _BRACKET.search(name)[0])):  # type: ignore[index]
            bare = _BRACKET.sub("", wanted)
            found = [own for own in self.names if _BRACKET.sub("", fold(own)) == bare]
        if len(found) > 1:
            raise DatasetError(
                f"{self.path}: {len(found)} columns are called {name!r} ({', '.join(found)}); "
                "delete or rename those that are not meant"
            )
        return found[0] if found else None

    def require(self, *names: str) -> list[int]:
        """The places of the columns `names`; DatasetError that names those the header lacks."""
        own = [self.column(name) for name in names]
        missing = [name for name, found in zip(names, own, strict=True) if found is None]
        if missing:
            raise DatasetError(
                f"{self.path} lacks the column(s) {', '.join(missing)}; its header is: {', '.join(self.names) or 'empty'}"
            )
        return [self.names.index(name) for name in own if name is not None]


@cache
def fold(name: str) -> str:
    """A column's name as it is compared: one form of each character, no case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def read_table(path: Path) -> Table:
    """Open a table: text in any usual encoding, plain or gzip, or an .xlsx.

    Cells are separated by tabs, semicolons, commas, bars or spaces; a first line `sep=;` says which. Lines above the
    header that begin with #, % or // are comments. Raises DatasetError for a file that is missing or is no table.
    """
    data = read_bytes(path)
    if is_workbook(data):
        rows, others = workbook_rows(path, data)
        records = [(line, cells) for line, cells in enumerate(rows, start=1) if any(cell.strip() for cell in cells)]
        names = _names(records[0][1])
        notes = (f"{path.name}: the sheets {', '.join(others)} are not read",) if others else ()
        # A row of a workbook ends with its last filled cell.
        whole = [(line, [*cells, *[""] * (len(names) - len(cells))]) for line, cells in records[1:]]
        body = [(line, list(map(str.strip, _fitted(cells, names))) if _fits(cells, names) else None) for line, cells in whole]
        return Table(path, names, records=body, notes=notes)
    return table_of_text(path, decode(path, data))


def table_of_text(path: Path, text: str) -> Table:
    """The table in a text."""
    lines = split_lines(text)
    first, comments, delimiter = 0, [], None
    while first < len(lines):
        line = lines[first].strip()
        if match := _SEP.fullmatch(line):
            delimiter = match[1]
        elif line.startswith(_COMMENTS):
            comments.append(line)
        elif line:
            break
        first += 1
    header = lines[first] if first < len(lines) else ""
    if comments and _looks_like_data(header):  # the header itself stands behind a comment sign
        named = comments[-1].lstrip("#%/ ")
        mark = delimiter or _delimiter(named, lines[first:])
        if len(named.split(mark)) == len(header.split(mark)) > 1:
            return Table(path, _names(named.split(mark)), mark, tuple(comments[:-1]), lines, first)
    delimiter = delimiter or _delimiter(header, lines[first + 1 :])
    return Table(path, _names(_split(header, delimiter)), delimiter, tuple(comments), lines, first + 1)


def _looks_like_data(line: str) -> bool:
    cells = re.split(r"[\t;, ]", line)
    return len(cells) > 1 and sum(not math.isnan(number(cell)) for cell in cells) * 2 > len(cells)


def _names(cells: Sequence[str]) -> tuple[str, ...]:
    return tuple(" ".join(cell.replace("\ufeff", "").strip().strip('"').split()) for cell in cells)


def _delimiter(header: str, lines: Sequence[str]) -> str:
    """The sign that splits most rows into as many cells as the header, of these the one that makes most cells."""
    rows = [line for line in lines[:_LOOK] if line.strip()]

    def fit(sign: str) -> tuple[float, int]:
        count = len(_split(header, sign))
        same = sum(len(_split(row, sign)) == count for row in rows) / len(rows) if rows else 1.0
        return (round(same, 1), count) if count > 1 else (-1.0, 0)

    # Spaces stand inside names and cells, so they separate only where nothing else does.
    signs = [sign for sign in _DELIMITERS[:-1] if sign in header] or [_DELIMITERS[-1]]
    return max(signs, key=fit)


@cache
def _pattern(delimiter: str) -> re.Pattern[str]:
    sign = re.escape(delimiter)
    return re.compile(rf'(?:[ ]*"((?:[^"]|"")*)"[ ]*|([^{sign}]*))(?:{sign}|$)')


def _split(line: str, delimiter: str) -> list[str]:
    """The cells of one line; a cell in quotation marks may hold the delimiter, a mark anywhere else is a character."""
    if '"' not in line:
        return line.split(delimiter)
    cells, place = [], 0
    pattern = _pattern(delimiter)
    while place <= len(line):
        match = pattern.match(line, place)
        assert match is not None, "the second alternative matches anything up to a delimiter or the end"
        cells.append(match[2] if match[1] is None else match[1].replace('""', '"'))
        if match.end() == len(line) and not match[0].endswith(delimiter):
            break
        place = match.end()
    return cells


def _rows(lines: Sequence[str], first: int, names: Sequence[str], delimiter: str) -> Iterator[tuple[int, Sequence[str] | None]]:
    place = first
    while place < len(lines):
        line, number_of_line = lines[place], place + 1
        place += 1
        cells = _split(line, delimiter)
        if not _fits(cells, names) and '"' in line:
            plain = line.split(delimiter)
            if _fits(plain, names):
                cells = plain
            else:
                cells, place = _joined(lines, place, names, delimiter) or (cells, place)
        if not any(map(str.strip, cells)):
            continue
        if _fits(cells, names):
            yield number_of_line, list(map(str.strip, _fitted(cells, names)))
        elif not line.startswith(_COMMENTS):
            yield number_of_line, None


def _joined(lines: Sequence[str], place: int, names: Sequence[str], delimiter: str) -> tuple[list[str], int] | None:
    """A row whose quoted cell spans several lines, and where the next row begins; never a line that is a row by itself."""
    text = lines[place - 1]
    for end in range(place, min(place + _LOOK, len(lines))):
        if _fits(_split(lines[end], delimiter), names):
            return None
        text += "\n" + lines[end]
        cells = _split(text, delimiter)
        if _fits(cells, names):
            return cells, end + 1
    return None


def _fits(cells: Sequence[str], names: Sequence[str]) -> bool:
    """Whether a row has a cell for each column; a delimiter more or less at the end of lines is no cell."""
    more = len(cells) - len(names)
    if more == 0:
        return True
    return not any(cell.strip() for cell in cells[len(names) :]) if more == 1 else more == -1 and not names[-1]


def _fitted(cells: Sequence[str], names: Sequence[str]) -> list[str]:
    return [*cells[: len(names)], *[""] * (len(names) - len(cells))]


def repeated(names: Sequence[str]) -> set[str]:
    """The names, folded, that stand more than once in a header; empty ones aside."""
    return {name for name, count in Counter(map(fold, names)).items() if count > 1 and name}


def number(cell: str) -> float:
    """The number in a cell, with a decimal point or a decimal comma; NaN where it is none."""
    try:
        return float(cell) if "_" not in cell else math.nan
    except ValueError:
        return float(cell.replace(",", ".")) if _DECIMAL_COMMA.fullmatch(cell.strip()) else math.nan
