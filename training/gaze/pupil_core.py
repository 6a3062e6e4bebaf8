"""Pupil Core's surfaces, as Pupil Player exports them: shares of a surface, counted upwards from its lower left corner.

    surfaces/gaze_positions_on_surface_<NAME>.csv    world_timestamp, gaze_timestamp, x_norm, y_norm, on_surf, confidence
    surfaces/fixations_on_surface_<NAME>.csv         fixation_id, start_timestamp, duration, norm_pos_x, norm_pos_y, on_surf

Timestamps are seconds, durations milliseconds. A fixation stands once for each frame of the scene camera in it; its mean
position counts, once. The surface is taken to be the image, its name the image's. gaze_positions.csv and fixations.csv
are positions in the scene camera's picture, which say nothing of an image. (Pupil Core documentation, "Raw Data Exporter"
and "Surface Tracker".)
"""

from __future__ import annotations

import math
import re

from .csv_table import Table, number
from .layout import Header, Layout, NotGazeError, stem_of
from .mapping import Columns, Units

CONFIDENT = 0.6  # below it Pupil's own software takes gaze for lost
_SURFACE = re.compile(r"(?:gaze_positions|gaze|fixations)_on_surface_(.*)", re.IGNORECASE)
_UNITS = Units("s", "ms", "image", "bottom left")


def recognise(table: Table) -> Layout | None:
    """The layout of an exported surface, or None. Raises DatasetError for positions in the scene camera."""
    head = Header(table.names)
    surface = _SURFACE.fullmatch(stem_of(table.path))
    image = surface[1] if surface else None
    if head.has("fixation_id", "norm_pos_x", "norm_pos_y", "on_surf", "duration"):
        return _fixations(table, head, image)
    if head.has("x_norm", "y_norm", "on_surf") and head.first("gaze_timestamp", "world_timestamp"):
        time = head.first("gaze_timestamp", "world_timestamp", "timestamp")
        only = {head.first("on_surf") or "": ("true", "1")}
        columns = Columns(time, (head.first("x_norm") or "",), (head.first("y_norm") or "",))
        confidence, units = head.first("confidence"), _UNITS
        if confidence:
            columns = Columns(time, columns.x, columns.y, validity=(confidence,))
            units = Units("s", "ms", "image", "bottom left", valid_from=CONFIDENT)
        return Layout(
            "Pupil Core, gaze on a surface",
            f"its columns {time}, x_norm, on_surf",
            table,
            columns,
            units,
            only=only,
            image=image,
        )
    if head.has("norm_pos_x", "norm_pos_y", "confidence"):
        raise NotGazeError(
            f"{table.path} is Pupil Core's gaze in the scene camera, which says nothing of an image; "
            "define the image as a surface in Pupil Player and give its gaze_positions_on_surface_<image>.csv"
        )
    return None


def _fixations(table: Table, head: Header, image: str | None) -> Layout:
    """Rows of one fixation, one a frame, joined into one."""
    names = ("fixation_id", "start_timestamp", "duration", "norm_pos_x", "norm_pos_y", "on_surf")
    places = table.require(*names)
    found: dict[str, list[tuple[int, list[str]]]] = {}
    joined: list[tuple[int, list[str] | None]] = []
    for line, cells in table:
        if cells is None:
            joined.append((line, None))
        else:
            chosen = [cells[place] for place in places]
            found.setdefault(chosen[0], []).append((line, chosen))
    for rows in found.values():
        on = [cells for _, cells in rows if cells[5].lower() in ("true", "1", "1.0")]
        mean = [math.fsum(number(cells[place]) for cells in on) / len(on) if on else math.nan for place in (3, 4)]
        line, first = rows[0]
        joined.append((line, [*first[:3], *(repr(value) if math.isfinite(value) else "" for value in mean), str(bool(on))]))
    columns = Columns("start_timestamp", ("norm_pos_x",), ("norm_pos_y",), duration="duration", index="fixation_id")
    flat = Table(table.path, names, records=joined)
    return Layout(
        "Pupil Core, fixations on a surface",
        "its columns fixation_id, on_surf",
        flat,
        columns,
        _UNITS,
        image=image,
        recording=image,
    )
