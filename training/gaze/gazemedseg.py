"""The fixation table of GazeMedSeg (Zhong et al., MICCAI 2024), which is this project's own too: shares of the image.

It has the column names of an EyeLink Data Viewer report, whose positions are pixels of the screen; those of an image go
from 0 to 1, so the numbers tell which of the two a table is.
"""

from __future__ import annotations

from .csv_table import Table
from .layout import Header, Layout
from .mapping import Columns, Units

NAME = "fixation table"
IMAGE, CLASS, READER = "IMAGE", "CLASS", "READER"
READERS = (READER, "RECORDING_SESSION_LABEL", "PARTICIPANT", "SUBJECT", "OBSERVER")
INDEX, START = "CURRENT_FIX_INDEX", "CURRENT_FIX_START"
X, Y, DURATION = "CURRENT_FIX_X", "CURRENT_FIX_Y", "CURRENT_FIX_DURATION"
REQUIRED = (IMAGE, X, Y, DURATION)
COLUMNS = (IMAGE, INDEX, X, Y, DURATION, "CURRENT_FIX_PUPIL", START, "IMAGE_HEIGHT", "IMAGE_WIDTH")


def recognise(table: Table) -> Layout | None:
    """The layout of a table with the published columns, or None."""
    head = Header(table.names)
    if not head.has(X, Y, DURATION):
        return None
    columns = Columns(
        time=head.first(START),
        x=(head.first(X) or X,),
        y=(head.first(Y) or Y,),
        duration=head.first(DURATION),
        image=head.first(IMAGE),
        index=head.first(INDEX),
        label=head.first(CLASS),
        reader=head.first(*READERS),
        trial=head.first("TRIAL_INDEX"),
    )
    units = Units("ms", "ms", "image", "top left")
    return Layout(NAME, f"its columns {X}, {Y} in shares of the image", table, columns, units)
