"""Tobii Pro Lab's data export (old headers, and the newer ones with units in brackets) and Tobii Studio's before it.

Shares of the medium (MCSnorm) are taken before pixels of the screen (DACSpx); with pixels, the columns of the presented
medium's position say where it stood, and those of the recording's resolution how large the screen was. Rows of the mouse
and of events are no gaze. Pro Lab counts the time in microseconds, older versions and Studio in milliseconds.
"""

from __future__ import annotations

import itertools
import re

from .csv_table import Table, number
from .layout import Header, Layout, unit_in
from .mapping import AUTO, Columns, Screen, Units, pixel_pair

_TIME = r"recording ?timestamp(?: \[(?:ms|μs|us)\])?"
_LOOK = 5000


def recognise(table: Table) -> Layout | None:
    """The layout of a Tobii export, or None."""
    head = Header(table.names)
    time = head.like(_TIME)
    position, x, y = _positions(head)
    if time is None or not x:
        return None
    both = head.first("Validity left", "ValidityLeft"), head.first("Validity right", "ValidityRight")
    validity = tuple(name for name in both if name) if len(x) == 2 and all(both) else ()
    columns = Columns(
        time=time,
        x=x,
        y=y,
        image=head.first("Presented Stimulus name", "Presented Media name", "MediaName", "StudioTestName"),
        validity=validity,
        reader=head.first("Participant name", "ParticipantName", "Participant"),
        trial=head.first("Recording name", "RecordingName"),
        area=_area(head) if position == "pixels" else (),
    )
    sensor = head.first("Sensor")
    studio = not re.search(r"recording timestamp", time, re.IGNORECASE)
    units = Units(
        unit_in(time) or AUTO,
        position=position,
        origin="top left",
        valid=("0", "1") if studio and validity else ("valid",) if validity else None,
    )
    return Layout(
        "Tobii Studio export" if studio else "Tobii Pro Lab export",
        f"its columns {time}, {x[0]}",
        table,
        columns,
        units,
        Screen(*_resolution(table, head)),
        only={sensor: ("Eye Tracker",)} if sensor else {},
    )


def _positions(head: Header) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    for position, ends in (
        ("image", (" (MCSnorm)", " [MCS norm]")),
        ("pixels", (" (DACSpx)", " [DACS px]", "")),
    ):
        for end in ends:
            found = head.pairs(*((f"Gaze point {eye} X{end}", f"Gaze point {eye} Y{end}") for eye in ("left", "right")))
            found = found if found[0] else head.pairs((f"Gaze point X{end}", f"Gaze point Y{end}"))
            if found[0]:
                return position, *found
    for end in (" (MCSpx)", " (ADCSpx)", ""):
        found = head.pairs(*((f"GazePoint{eye}X{end}", f"GazePoint{eye}Y{end}") for eye in ("Left", "Right")))
        found = found if found[0] else head.pairs((f"GazePointX{end}", f"GazePointY{end}"))
        if found[0] and end != " (MCSpx)":
            return "pixels", *found
    return "", (), ()


def _area(head: Header) -> tuple[str, ...]:
    for names in (
        (
            "Presented Media position X (DACSpx)",
            "Presented Media position Y (DACSpx)",
            "Presented Media width",
            "Presented Media height",
        ),
        (
            "Presented Stimulus position X [DACS px]",
            "Presented Stimulus position Y [DACS px]",
            "Presented Stimulus width [px]",
            "Presented Stimulus height [px]",
        ),
        (
            "Presented Media position X [DACS px]",
            "Presented Media position Y [DACS px]",
            "Presented Media width [px]",
            "Presented Media height [px]",
        ),
        ("MediaPosX (ADCSpx)", "MediaPosY (ADCSpx)", "MediaWidth", "MediaHeight"),
    ):
        if head.has(*names):
            return tuple(head.first(name) or name for name in names)
    return ()


def _resolution(table: Table, head: Header) -> tuple[int, int] | tuple[None, None]:
    """The screen's size in pixels: two columns, or Studio's one cell "1920 x 1080"."""
    width = head.first("Recording resolution width", "Recording resolution width [px]")
    height = head.first("Recording resolution height", "Recording resolution height [px]")
    both = head.first("RecordingResolution")
    for _, cells in itertools.islice(table, _LOOK):
        if cells is None:
            continue
        if width and height:
            pair = [cells[table.names.index(name)] for name in (width, height)]
        else:
            pair = re.split(r"\s*x\s*", cells[table.names.index(both)]) if both else []
        size = pixel_pair([number(cell) for cell in pair])
        if size[0] is not None:
            return size
    return None, None
