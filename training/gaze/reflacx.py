"""REFLACX (Bigolin Lanfredi et al., Scientific Data 2022): fixations.csv or gaze.csv of one reading, in pixels of the image.

Zoom, pan and windowing are undone already: x_position and y_position are pixels of the whole X-ray, and the part that was
shown stands beside them (xmin_shown_from_image ... ymax_shown_from_image), whose largest extent is the X-ray's own size.
The folder is named after the reading; metadata_phase_<n>.csv two folders up says which image it was of.
"""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

from .csv_table import Table, number, read_table
from .layout import Header, Layout
from .mapping import Columns, Units

_SHOWN = ("xmin_shown_from_image", "ymin_shown_from_image", "xmax_shown_from_image", "ymax_shown_from_image")


def recognise(table: Table) -> Layout | None:
    """The layout of a reading's fixations or gaze, or None."""
    head = Header(table.names)
    fixations = head.has("timestamp_start_fixation", "timestamp_end_fixation")
    time = head.first("timestamp_start_fixation", "timestamp_sample")
    if time is None or not head.has("x_position", "y_position"):
        return None
    image, size = _metadata(table.path)
    columns = Columns(
        time,
        (head.first("x_position") or "",),
        (head.first("y_position") or "",),
        end=head.first("timestamp_end_fixation") if fixations else None,
        index=head.first("fixation_id") if fixations else None,
        image=head.first("image", "dicom_id"),
        reader=head.first("id"),
    )
    return Layout(
        "REFLACX",
        f"its columns {time}, x_position",
        table,
        columns,
        Units("s", "s", "image_pixels", "top left"),
        image=image,
        recording="",
        reader=table.path.parent.name if image else None,
        image_size=size or (_shown(table) if head.has(*_SHOWN) else None),
    )


def _metadata(path: Path) -> tuple[str | None, tuple[float, float] | None]:
    """The image of a reading and its (width, height), from the dataset's metadata, where it is there."""
    reading = path.parent.name
    folders = (path.parent, path.parent.parent, path.parent.parent.parent)
    for file in (file for folder in folders for file in sorted(folder.glob("metadata_phase_*.csv"))):
        readings = _readings(file, file.stat().st_mtime_ns)
        if reading in readings:
            return readings[reading]
    return None, None


@lru_cache(maxsize=8)
def _readings(file: Path, changed: int) -> dict[str, tuple[str, tuple[float, float] | None]]:
    """Image and size of every reading that a metadata file lists."""
    table = read_table(file)
    if table.column("id") is None or table.column("dicom_id") is None:
        return {}
    places = table.require("id", "dicom_id")
    sizes = [table.names.index(name) for name in map(table.column, ("image_size_x", "image_size_y")) if name]
    found: dict[str, tuple[str, tuple[float, float] | None]] = {}
    for _, cells in table:
        if cells is not None:
            values = [number(cells[place]) for place in sizes]
            size = (values[0], values[1]) if len(values) == 2 and min(values) > 0 else None
            found[cells[places[0]]] = (cells[places[1]], size)
    return found


def _shown(table: Table) -> tuple[float, float] | None:
    """The X-ray's own (width, height): the largest extent that was shown, where the whole was shown at some time."""
    places = table.require(*_SHOWN)
    low, high = [math.inf, math.inf], [0.0, 0.0]
    for _, cells in table:
        if cells is not None:
            values = [number(cells[place]) for place in places]
            if all(map(math.isfinite, values)):
                low = [min(a, b) for a, b in zip(low, values[:2], strict=True)]
                high = [max(a, b) for a, b in zip(high, values[2:], strict=True)]
    return (high[0], high[1]) if max(low) <= 0 and min(high) > 0 else None
