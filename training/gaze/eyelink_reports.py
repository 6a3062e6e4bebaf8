"""EyeLink Data Viewer: fixation reports and sample reports, in pixels of the screen, a dot for what is missing.

A fixation report (SR Research, Data Viewer manual, "Fixation Report"): CURRENT_FIX_X, CURRENT_FIX_Y, CURRENT_FIX_DURATION,
RECORDING_SESSION_LABEL, TRIAL_INDEX and whatever trial variables were chosen, one of which names the image.
A sample report: TIMESTAMP, LEFT_GAZE_X ... RIGHT_GAZE_Y, LEFT_IN_BLINK, RIGHT_IN_BLINK.
"""

from __future__ import annotations

import dataclasses
import itertools

from .csv_table import Table, number
from .gazemedseg import CLASS, DURATION, IMAGE, INDEX, START, X, Y
from .layout import Header, Layout, NotGazeError
from .mapping import Columns, Units

_LOOK = 2000  # rows whose positions tell pixels from shares
_OTHER = {
    "current_sac_duration": "saccade report",
    "ia_dwell_time": "interest area report",
    "current_msg_text": "message report",
    "fixation_count": "trial report",
}


def recognise(table: Table) -> Layout | None:
    """The layout of a Data Viewer report in pixels, or None. Raises DatasetError for its reports that hold no gaze."""
    head = Header(table.names)
    session, trial = head.first("RECORDING_SESSION_LABEL"), head.first("TRIAL_INDEX")
    common = Columns(image=head.first(IMAGE), label=head.first(CLASS), reader=session, trial=trial)
    if head.has(X, Y, DURATION):
        if not _pixels(table, head.first(X) or X, head.first(Y) or Y):
            return None
        columns = dataclasses.replace(
            common,
            time=head.first(START),
            x=(head.first(X) or X,),
            y=(head.first(Y) or Y,),
            duration=head.first(DURATION),
            index=head.first(INDEX),
            eye=head.first("EYE_REPORTED", "EYE_USED", "EYE"),
        )
        how = f"its columns {X}, {Y} in pixels"
        return Layout("EyeLink Data Viewer, fixation report", how, table, columns, Units("ms", "ms", "pixels", "top left"))
    eyes = head.pairs(("LEFT_GAZE_X", "LEFT_GAZE_Y"), ("RIGHT_GAZE_X", "RIGHT_GAZE_Y"))
    eyes = eyes if eyes[0] else head.pairs(("AVERAGE_GAZE_X", "AVERAGE_GAZE_Y"))
    if eyes[0] and "TIMESTAMP" in head:
        blinks = tuple(name for name in (head.first("LEFT_IN_BLINK"), head.first("RIGHT_IN_BLINK")) if name)
        validity = blinks if len(blinks) == len(eyes[0]) else ()
        columns = dataclasses.replace(common, time=head.first("TIMESTAMP"), x=eyes[0], y=eyes[1], validity=validity)
        units = Units("ms", position="pixels", origin="top left", valid=("0", ".", "") if columns.validity else None)
        return Layout("EyeLink Data Viewer, sample report", f"its columns TIMESTAMP, {eyes[0][0]}", table, columns, units)
    for name, report in _OTHER.items():
        if name in head and session:
            raise NotGazeError(f"{table.path} is Data Viewer's {report}, which holds no fixations; export the fixation report")
    return None


def _pixels(table: Table, x: str, y: str) -> bool:
    """Whether most positions are above what a share of the image can be, and some above what a percentage can be."""
    places = [table.names.index(x), table.names.index(y)]
    values = [
        value
        for _, cells in itertools.islice(table, _LOOK)
        if cells is not None
        for value in (number(cells[place]) for place in places)
        if 0 < abs(value) < 1e6
    ]
    return sum(abs(value) > 1.5 for value in values) * 2 > len(values) and max(map(abs, values)) > 100
