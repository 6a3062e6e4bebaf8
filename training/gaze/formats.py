"""Which tracker's file is this? Told by its content; each format is a file of its own beside this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gazeseg_serve.errors import DatasetError

from . import (
    bids,
    eyelink_asc,
    eyelink_reports,
    gazemedseg,
    gazepoint,
    lsl_xdf,
    neon,
    pupil_core,
    reflacx,
    smi,
    tobii,
    webgazer,
)
from .csv_table import Table, read_table, table_of_text
from .file_text import decode, is_workbook, read_bytes, split_lines
from .layout import Layout
from .names import ImageNames

# Formats that are tables, told by their columns; a table can be but one of them, save the first two, which share names.
TABLES: tuple[Callable[[Table], Layout | None], ...] = (
    eyelink_reports.recognise,
    gazemedseg.recognise,
    tobii.recognise,
    reflacx.recognise,
    pupil_core.recognise,
    neon.recognise,
    gazepoint.recognise,
    smi.recognise,
)
# Files that lie beside gaze and are none of it; a pattern over a folder passes them by.
SUFFIXES = (".csv", ".tsv", ".txt", ".asc", ".json", ".xdf", ".xdfz", ".xlsx", ".xls", ".gz")


def recognise(path: Path, images: ImageNames) -> Layout | Table:
    """The layout of a gaze file; the bare table where it is of no known format.

    Raises DatasetError for a file that cannot be read, and for those of a tracker that hold no gaze of an image.
    """
    if path.suffix.lower() == ".edf":
        raise DatasetError(
            f"{path} is EyeLink's binary .edf; convert it to .asc with SR Research's edf2asc (EyeLink Developers Kit)"
        )
    said = bids.sidecar(path)
    if said is not None:
        return bids.read(path, said)
    data = read_bytes(path)
    if data.startswith(b"XDF:"):
        return lsl_xdf.read(path, images)
    if is_workbook(data):
        return of_table(read_table(path), images)
    text = decode(path, data)
    if webgazer.is_json(text):
        return webgazer.read(path, text, images)
    if eyelink_asc.is_asc(text):
        return eyelink_asc.read(path, split_lines(text), images)
    return of_table(table_of_text(path, text), images)


def of_table(table: Table, images: ImageNames) -> Layout | Table:
    """The layout that a table's header tells, or the table itself."""
    found = next((layout for look in TABLES if (layout := look(table)) is not None), None)
    return found or webgazer.recognise(table, images) or table


def gaze_files(path: Path) -> list[Path]:
    """The files of a folder that may hold gaze, those of its folders too; hidden ones aside."""
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
