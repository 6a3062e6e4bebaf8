"""The text of a file as labs have it: packed or not, in whatever encoding, and never more than memory should hold."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any

from gazeseg_serve.errors import DatasetError, require

LIMIT = 2**31  # bytes that one file may hold once it is unpacked
_CELLS = 2**26  # of a sheet
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_LINES = re.compile(r"\r\n|\n|\r")
# What some trackers and programs write, which is no table: first bytes, its name, and what to do.
_BINARY = (
    (_ZIP, "a zip archive that is no whole Excel workbook", "unpack it, or save the table as .xlsx or CSV again"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)", "save it as .xlsx or as CSV"),
    (b"\x89HDF", "an HDF5 file", "export its gaze as CSV"),
    (b"PAR1", "a Parquet file", "export it as CSV"),
    (b"ARROW1", "an Arrow or Feather file", "export it as CSV"),
    (b"SQLite format 3", "an SQLite database", "export its gaze as CSV"),
    (b"MATLAB 5.0", "a MATLAB file", "export its gaze with writetable"),
    (b"\x93NUMPY", "a NumPy file", "export it as CSV"),
    (b"SR_RESEARCH", "an EyeLink .edf", "convert it with SR Research's edf2asc, which writes an .asc"),
)


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, unpacked where it is gzip. Raises DatasetError for one that is missing, damaged or too large."""
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise DatasetError(f"{path} holds {size} bytes, the limit is {LIMIT}; split it by recording")
        data = path.read_bytes()
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist; a dataset folder needs its fixations there") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); check that it is a file you may read") from error
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            unpacked = packed.read(LIMIT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} is a damaged gzip file ({error}); copy it again") from error
    if len(unpacked) > LIMIT:
        raise DatasetError(f"{path} unpacks to more than {LIMIT} bytes; split it by recording")
    return unpacked


def decode(path: Path, data: bytes) -> str:
    """Text in UTF-8, UTF-16, UTF-32 or, where it is none of them, Windows-1252.

    Raises DatasetError where the bytes are no text, naming the kind of file where it is a known one.
    """
    for start, kind, what in _BINARY:
        if data.startswith(start):
            raise DatasetError(f"{path} cannot be read: it is {kind}; {what}")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _unmarked(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} cannot be read as text ({error}); save it as a CSV table in UTF-8") from error
    if "\0" in text:
        raise DatasetError(f"{path} cannot be read as text (it holds zero bytes); save it as a CSV table in UTF-8")
    return text


def _unmarked(data: bytes) -> str:
    """The encoding of text without a byte order mark."""
    head = data[:4096]
    # ASCII characters in UTF-16: every other byte is zero.
    if len(head) >= 4 and head[1::2].count(0) > 0.4 * len(head) / 2 and head[0::2].count(0) == 0:
        return "utf-16-le"
    if len(head) >= 4 and head[0::2].count(0) > 0.4 * len(head) / 2 and head[1::2].count(0) == 0:
        return "utf-16-be"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def split_lines(text: str) -> list[str]:
    """The lines of a text, ended as Windows, Unix or old Macs end them; the characters that only str.splitlines splits stay."""
    lines = _LINES.split(text)
    return lines[:-1] if lines and not lines[-1] else lines


def is_workbook(data: bytes) -> bool:
    """Whether the bytes are a zip archive with an Excel workbook in it."""
    if not data.startswith(_ZIP):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return "xl/workbook.xml" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def workbook_rows(path: Path, data: bytes) -> tuple[list[list[str]], list[str]]:
    """The cells of an .xlsx as text, of the first sheet that holds any, and the names of further sheets that do.

    Raises DatasetError for a damaged or too large workbook, MissingExtraError without openpyxl.
    """
    openpyxl = require("openpyxl", "gaze")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LIMIT:
        raise DatasetError(f"{path} unpacks to {size} bytes, the limit is {LIMIT}; save it as CSV")
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        sheets = {sheet.title: _sheet(path, sheet) for sheet in book.worksheets}
        book.close()
    except (ValueError, KeyError, TypeError, SyntaxError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path} is a workbook that cannot be read ({error}); save it as CSV") from error
    filled = {name: rows for name, rows in sheets.items() if any(any(cells) for cells in rows)}
    if not filled:
        raise DatasetError(f"{path} is a workbook without a filled cell; export it again")
    first, *others = filled
    return filled[first], others


def _sheet(path: Path, sheet: Any) -> list[list[str]]:
    """The rows of a sheet, as long as their last cell; what the workbook says of its size is not believed."""
    sheet.reset_dimensions()
    rows, count = [], 0
    for row in sheet.values:
        count += len(row) + 1
        if count > _CELLS:
            raise DatasetError(f"{path}: a sheet has more than {_CELLS} cells; save it as CSV")
        rows.append([_cell(value) for value in row])
    return rows


def _cell(value: object) -> str:
    """A cell as text; a whole number keeps no decimal point."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(value)
