"""GazePoint Analysis: "User 0_all_gaze.csv" and "User 0_fixations.csv", shares of the screen; and eye-gaze-dataset.

The time column's name holds the date of the recording: TIME(2021/07/13 09:21:09.801). Both files hold the same recording:
one row a sample, and one row a fixation (FPOGS start and FPOGD duration, seconds). The chest X-ray gaze of Karargyris et al.
(Scientific Data 2021) was recorded with a GazePoint and adds X_ORIGINAL, Y_ORIGINAL: pixels of the image (DICOM_ID).
"""

from __future__ import annotations

import itertools
import re

from .csv_table import Table, number
from .layout import Header, Layout, stem_of
from .mapping import Columns, Units

_TIME = r"time ?\((?!f=).*\)|time"
_LOOK = 200


def recognise(table: Table) -> Layout | None:
    """The layout of a GazePoint export, or None."""
    head = Header(table.names)
    time = head.like(_TIME)
    if time is None or not (head.has("FPOGX", "FPOGY", "FPOGD") or head.has("BPOGX", "BPOGY")):
        return None
    original = head.has("X_ORIGINAL", "Y_ORIGINAL")
    user = re.match(r"(.*?)_(?:all_gaze|fixations)", stem_of(table.path), re.IGNORECASE)
    fixations = head.has("FPOGX", "FPOGY", "FPOGD", "FPOGID") and (
        stem_of(table.path).lower().endswith("fixations") or _one_a_fixation(table, head)
    )
    kind = "FPOG" if fixations or not head.has("BPOGX", "BPOGY") else "BPOG"
    columns = Columns(
        head.first("FPOGS") if fixations else time,
        (head.first("X_ORIGINAL" if original else f"{kind}X") or "",),
        (head.first("Y_ORIGINAL" if original else f"{kind}Y") or "",),
        image=head.first("MEDIA_NAME", "DICOM_ID"),
        validity=tuple(name for name in (head.first(f"{kind}V"),) if name),
        reader=head.first("USER", "USER_NAME"),
        trial=head.first("SESSION_ID"),
        duration=head.first("FPOGD") if fixations else None,
        index=head.first("FPOGID") if fixations else None,
    )
    return Layout(
        "eye-gaze-dataset" if original else f"GazePoint Analysis, {'fixations' if fixations else 'all gaze'}",
        f"its columns {time}, {kind}X",
        table,
        columns,
        Units("s", "s", "image_pixels" if original else "screen", "top left", valid=("1",)),
        reader=user[1] if user else None,
        recording=user[1] if user else "" if original else None,
    )


def _one_a_fixation(table: Table, head: Header) -> bool:
    """Whether each row is another fixation."""
    places = table.require("FPOGID")
    rows = [cells[places[0]] for _, cells in itertools.islice(table, _LOOK) if cells is not None]
    return len(rows) > 1 and len(set(rows)) == len(rows) and all(number(cell) >= 0 for cell in rows)
