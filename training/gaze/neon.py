"""Pupil Labs Neon and Invisible: the CSV files of Pupil Cloud and Neon Player, times in nanoseconds.

Gaze that an enrichment has mapped onto the image is read: the Marker Mapper's shares of a surface and the Reference Image
Mapper's pixels of the image, both from the top left. The plain gaze.csv and fixations.csv are pixels of the scene camera,
which say nothing of an image. (Pupil Labs, "Export Formats" of either mapper.)
"""

from __future__ import annotations

from .csv_table import Table
from .layout import Header, Layout, NotGazeError
from .mapping import Columns, Units

_MAPPED = (  # what tells the file, x, y, the flag, position
    ("gaze position on surface", "[normalized]", "gaze detected on surface", "image"),
    ("gaze position in reference image", "[px]", "gaze detected in reference image", "image_pixels"),
    ("fixation", "[normalized]", "fixation detected on surface", "image"),
    ("fixation", "[px]", "fixation detected in reference image", "image_pixels"),
)
SCENE_NAME = "Pupil Labs Neon, gaze in the scene camera"
_SCENE = (("gaze x [px]", "gaze y [px]"), ("fixation x [px]", "fixation y [px]"))


def recognise(table: Table) -> Layout | None:
    """The layout of a mapped export, or None."""
    head = Header(table.names)
    for what, unit, flag, position in _MAPPED:
        x, y = head.first(f"{what} x {unit}"), head.first(f"{what} y {unit}")
        detected = head.first(flag)
        if x is None or y is None or detected is None:
            continue
        fixations = what == "fixation"
        columns = Columns(
            head.first("start timestamp [ns]" if fixations else "timestamp [ns]"),
            (x,),
            (y,),
            reader=head.first("wearer name", "wearer"),
            trial=head.first("recording id"),
            duration=head.first("duration [ms]") if fixations else None,
        )
        units = Units("ns", "ms", position, "top left")
        mapper = "Marker Mapper" if position == "image" else "Reference Image Mapper"
        only = {detected: ("true", "1")}
        return Layout(f"Pupil Labs {mapper}", f"its column {x}", table, columns, units, only=only, recording="")
    if "timestamp [ns]" in head or "start timestamp [ns]" in head:
        return _scene(table, head)
    return None


def _scene(table: Table, head: Header) -> Layout | None:
    """Positions in the scene camera: a layout that can be read only where a user says where the image stood in it."""
    for x, y in _SCENE:
        if head.has(x, y):
            fixations = x.startswith("fixation")
            columns = Columns(
                head.first("start timestamp [ns]" if fixations else "timestamp [ns]"),
                (head.first(x) or x,),
                (head.first(y) or y,),
                trial=head.first("recording id"),
                duration=head.first("duration [ms]") if fixations else None,
            )
            return Layout(SCENE_NAME, f"its column {x}", table, columns, Units("ns", "ms", "pixels", "top left"))
    return None


def refuse_scene(layout: Layout) -> None:
    """Raises NotGazeError for gaze in the scene camera of which nobody says where the image stood in its picture."""
    raise NotGazeError(
        f"{layout.table.path} is gaze in Neon's scene camera, which says nothing of an image; map it in Pupil Cloud with the "
        "Marker Mapper or the Reference Image Mapper, or say by [area] in gaze.toml where the image stood in its picture"
    )
