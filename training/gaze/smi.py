"""SMI: the text of IDF Converter and BeGaze's raw data, and BeGaze's event statistics.

Lines that begin with ## say the screen: "## Calibration Area: 1920 1080", "## Stimulus Dimension [mm]: 474 297",
"## Head Distance [mm]: 700". Time is in microseconds, positions are pixels (POR), 0 0 is a lost eye; messages ("# Message:
l.jpg", of Type MSG) name the image from there on where no Stimulus column does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .csv_table import Table, number
from .layout import Header, Layout, unit_in
from .mapping import Columns, Screen, Units, pixel_pair

_MESSAGE = re.compile(r"#?\s*Message:\s*(.*)", re.IGNORECASE)


def recognise(table: Table) -> Layout | None:
    """The layout of an SMI text file, or None."""
    head = Header(table.names)
    screen = _screen(table.comments)
    fixation = head.pairs(("Fixation Position X [px]", "Fixation Position Y [px]"))
    if fixation[0] and head.first("Event Duration [ms]", "Fixation Duration [ms]"):
        return _events(table, head, fixation, screen)
    eyes = head.pairs(
        ("L POR X [px]", "L POR Y [px]"),
        ("R POR X [px]", "R POR Y [px]"),
    )
    if not eyes[0]:
        eyes = head.pairs(
            ("Point of Regard Left X [px]", "Point of Regard Left Y [px]"),
            ("Point of Regard Right X [px]", "Point of Regard Right Y [px]"),
        )
    time = head.first("Time", "RecordingTime [ms]", "Time of Day [h:m:s:ms]")
    if not eyes[0] or time is None:
        return None
    if head.has("Type"):
        table = _named_by_messages(table, head.first("Stimulus"))
        head = Header(table.names)
    columns = Columns(
        time,
        *eyes,
        image=head.first("Stimulus"),
        trial=head.first("Trial"),
        reader=head.first("Participant") or None,
    )
    subject = next((match[1] for line in table.comments if (match := re.match(r"##\s*Subject:\s*(\S.*)", line))), None)
    return Layout(
        "SMI BeGaze raw data",
        f"its columns {time}, {eyes[0][0]}",
        table,
        columns,
        Units(unit_in(time) or "us", position="pixels", origin="top left"),
        screen,
        reader=subject,
    )


def _screen(comments: Sequence[str]) -> Screen:
    text = "\n".join(comments)

    def pair(label: str) -> list[float]:
        match = re.search(rf"##\s*{label}[^:\n]*:[ \t]*([\d.]+)(?:[ \tx]+([\d.]+))?", text)
        return [number(part) for part in match.groups() if part] if match else []

    area, size, distance = pair("Calibration Area"), pair("Stimulus Dimension"), pair("Head Distance")
    width, height = pixel_pair(area)
    across, down = (size[0] / 10, size[1] / 10) if len(size) == 2 else (None, None)
    return Screen(width, height, across, down, distance[0] / 10 if distance else None)


def _named_by_messages(table: Table, stimulus: str | None) -> Table:
    """The samples alone, each with its image: that of the Stimulus column, else of the last message above.

    A message row has its text in the first cell after the trial, and fewer cells than a sample.
    """
    kind = table.names.index("Type")
    names = table.names if stimulus else (*table.names, "Stimulus")
    rows: list[tuple[int, list[str] | None]] = []
    image = ""
    for line, text in enumerate(table.lines[table.first :], start=table.first + 1):
        cells = [cell.strip() for cell in text.split(table.delimiter)]
        if len(cells) > kind and cells[kind] == "MSG":
            found = next((match[1] for cell in cells[kind + 1 :] if (match := _MESSAGE.match(cell))), None)
            image = image if found is None else found.removeprefix("UE-").strip()
        elif any(cells) and (len(cells) <= kind or cells[kind] == "SMP"):
            whole = len(cells) == len(table.names)
            rows.append((line, (cells if stimulus else [*cells, image]) if whole else None))
    return Table(table.path, names, table.delimiter, table.comments, records=rows)


def _events(table: Table, head: Header, places: tuple[tuple[str, ...], tuple[str, ...]], screen: Screen) -> Layout:
    category = head.first("Category", "Event Type")
    columns = Columns(
        head.first("Event Start Trial Time [ms]", "Event Start Time [ms]"),
        *places,
        image=head.first("Stimulus"),
        reader=head.first("Participant"),
        trial=head.first("Trial"),
        duration=head.first("Event Duration [ms]", "Fixation Duration [ms]"),
        eye=head.first("Eye L/R", "Eye"),
    )
    only = {category: ("Fixation", "Visual Intake")} if category else {}
    how = "its column Fixation Position X [px]"
    return Layout("SMI BeGaze events", how, table, columns, Units("ms", "ms", "pixels", "top left"), screen, only=only)
