"""Rows of gaze files, whatever the tracker: one image, one moment, one place as a share of the image, or why not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gazeseg_serve.errors import ConfigError, DatasetError

from .bounds import SHARE, check_positions
from .csv_table import MISSING, number
from .layout import Layout
from .mapping import AUTO, MILLISECONDS, Area, fit
from .names import ImageNames, bare_name, same_place
from .scan_paths import AMBIGUOUS, LOST, MALFORMED, NOT_A_NUMBER, OFF_SAMPLE, UNKNOWN_IMAGE

# Numbers that trackers write where they saw no gaze: EyeLink, Tobii, SMI and others.
_CODES = (-9999.0, -32768.0)
_HUGE = 1e7  # EyeLink's MISSING_DATA is 1e8; no screen and no image has so many pixels
_OUT = math.inf  # a cell that is no number
_VALID = ("1", "true", "valid", "yes")


@dataclass(slots=True)
class Row:
    """One row. time and duration in ms (duration NaN: a raw sample); x, y shares of the image, NaN without gaze.

    image is the stem that was meant, or what the cell said; reason is one of `scan_paths.REASONS`, LOST or "".
    """

    file: str
    line: int
    image: str
    reader: str
    trial: str
    label: str
    time: float
    x: float
    y: float
    duration: float
    index: str
    eye: str
    reason: str
    area: Area | None = None


def read_rows(layout: Layout, images: ImageNames) -> Iterator[Row]:
    """The rows of one file, those between two images left out.

    Raises DatasetError for columns that are missing, and for pixels of a screen whose size nobody says.
    """
    yield from _Rows(layout, images).all()


class _Rows:
    """The columns of one file, looked up once."""

    def __init__(self, layout: Layout, images: ImageNames) -> None:
        self.layout, self.images, self.file = layout, images, str(layout.table.path)
        columns, units, table = layout.columns, layout.units, layout.table

        def one(name: str | None) -> int | None:
            return table.require(name)[0] if name else None

        self.time, self.image, self.label = one(columns.time), one(columns.image), one(columns.label)
        self.reader, self.trial, self.eye = one(columns.reader), one(columns.trial), one(columns.eye)
        self.duration, self.end, self.index = one(columns.duration), one(columns.end), one(columns.index)
        self.x, self.y = table.require(*columns.x), table.require(*columns.y)
        self.validity, self.area = table.require(*columns.validity), table.require(*columns.area)
        self.shown, self.sizes = table.require(*columns.shown), table.require(*columns.image_size)
        self.only = [(table.require(name)[0], {cell.lower() for cell in cells}) for name, cells in layout.only.items()]
        self.fixations = columns.fixations
        time = units.time or "ms"
        self.to_ms = 1.0 if time == AUTO else MILLISECONDS[time]
        self.duration_ms = MILLISECONDS[units.duration] if units.duration else self.to_ms
        self.position, self.origin = units.position or "pixels", units.origin or "top left"
        self.valid = {cell.lower() for cell in (units.valid if units.valid is not None else _VALID)}
        self.valid_numbers = [value for value in map(number, self.valid) if math.isfinite(value)]
        self.limits = units.valid_from, units.valid_to
        self.missing = MISSING | {cell.lower() for cell in units.missing or ()}
        self.codes = [value for value in map(number, units.missing or ()) if math.isfinite(value)]
        self.screen = layout.screen.pixels
        self.seen, self.beyond, self.largest = 0, 0, 0.0  # positions as they stand, how many beyond a share, the largest
        self.areas = {stem: area for name, area in layout.areas.items() if (stem := images.match(name)) is not None}
        if self.position in ("pixels", "screen", "screen_percent") and self.screen is None and not self._placed():
            raise DatasetError(
                f"{self.file} ({layout.name}) gives positions on the screen, whose size in pixels it does not say; "
                "write a gaze.toml beside it with files, and width_px and height_px under [screen]"
            )

    def _placed(self) -> bool:
        """Whether pixels of the screen can be turned into shares of the image without the screen's size."""
        whole = self.layout.area is not None or bool(self.area)
        return self.position == "pixels" and self.origin == "top left" and (whole or set(self.images.stems) <= set(self.areas))

    def all(self) -> Iterator[Row]:
        rows, places = [], {}  # type: ignore[var-annotated]
        for line, cells in self.layout.table:
            if cells is None:
                rows.append(Row(self.file, line, "", "", "", "", 0, 0, 0, math.nan, "", "", MALFORMED))
            elif all(cells[place].lower() in wanted for place, wanted in self.only):
                cell = cells[self.image] if self.image is not None else self.layout.image or ""
                if not cell and not self.fixations:  # between two images
                    continue
                row = self.row(line, cells, cell)
                if row.reason != UNKNOWN_IMAGE:
                    places.setdefault((row.image, row.reader), set()).add(same_place(cell))
                rows.append(row)
        check_positions(self.layout.table.path, self.position, self.seen, self.beyond, self.largest)
        several = {key for key, cells in places.items() if len(cells) > 1 and _differ(cells)}
        for row in rows:
            if (row.image, row.reader) in several and row.reason in ("", LOST):
                row.reason = AMBIGUOUS
            yield row

    def row(self, line: int, cells: Sequence[str], cell: str) -> Row:
        stem = self.images.match(cell)

        def text(place: int | None) -> str:
            return cells[place] if place is not None else ""

        time = number(cells[self.time]) * self.to_ms if self.time is not None else math.nan
        duration = self._duration(cells, time) if self.fixations else math.nan
        x, y = self._gaze(cells)
        row = Row(
            self.file,
            line,
            stem or bare_name(cell),
            text(self.reader) or self.layout.reader or "",
            text(self.trial),
            text(self.label) or self.layout.label or "",
            time,
            x,
            y,
            duration,
            text(self.index),
            text(self.eye),
            "",
        )
        if stem is None:
            row.reason = UNKNOWN_IMAGE
        elif math.isinf(x) or math.isinf(y) or (self.time is not None and not math.isfinite(time)):
            row.reason = NOT_A_NUMBER
        elif (
            math.isnan(x)
            or math.isnan(y)
            or (self.fixations and text(self.duration).lower() in self.missing and self.end is None)
        ):
            row.reason, row.x, row.y = LOST, math.nan, math.nan
        elif self.fixations and not math.isfinite(duration):
            row.reason = NOT_A_NUMBER
        else:
            far = max(abs(x), abs(y))
            self.seen, self.beyond, self.largest = self.seen + 1, self.beyond + (far > SHARE), max(self.largest, far)
            self._place(row, stem, cells)
        return row

    def _duration(self, cells: Sequence[str], time: float) -> float:
        if self.duration is not None:
            return number(cells[self.duration]) * self.duration_ms
        assert self.end is not None, "a fixation has a duration or an end"
        return number(cells[self.end]) * self.to_ms - time

    def _gaze(self, cells: Sequence[str]) -> tuple[float, float]:
        """The mean of the eyes that are seen; NaN where none is, inf where a cell is no number."""
        xs, ys = [], []
        for eye, (x, y) in enumerate(zip(self.x, self.y, strict=True)):
            if self.validity and not self._good(cells[self.validity[eye if len(self.validity) > 1 else 0]]):
                continue
            across, down = self._coordinate(cells[x]), self._coordinate(cells[y])
            if not (math.isnan(across) or math.isnan(down) or self._lost(across, down)):
                xs.append(across)
                ys.append(down)
        return (sum(xs) / len(xs), sum(ys) / len(ys)) if xs else (math.nan, math.nan)

    def _lost(self, across: float, down: float) -> bool:
        """Whether two numbers are a code for no gaze."""
        if any(value in self.codes or value in _CODES or _HUGE <= abs(value) < math.inf for value in (across, down)):
            return True
        # Codes only where both are equal, and only where they are not an ordinary place: no tracker sees gaze in a corner
        # to the last digit. A fixation in the corner is one, since a lost eye is no fixation.
        return across == down and self.origin != "center" and (across == -1 or (across == 0 and not self.fixations))

    def _coordinate(self, cell: str) -> float:
        if cell.lower() in self.missing:
            return math.nan
        value = number(cell)
        return _OUT if math.isnan(value) else value

    def _good(self, cell: str) -> bool:
        low, high = self.limits
        if low is not None or high is not None:
            value = number(cell)
            return (low is None or value >= low) and (high is None or value <= high) and not math.isnan(value)
        return cell.lower() in self.valid or number(cell) in self.valid_numbers

    def _place(self, row: Row, stem: str, cells: Sequence[str]) -> None:
        """Turn the row's position into shares of the image."""
        x, y = row.x, row.y
        if self.position.startswith("image"):
            size = self._image_size(stem, cells)
            scale = {"image": (1.0, 1.0), "image_percent": (100.0, 100.0), "image_pixels": size}[self.position]
            row.x, row.y = x / scale[0], y / scale[1]
            if self.origin == "bottom left":
                row.y = 1 - row.y
            elif self.origin == "center":
                row.x, row.y = 0.5 + row.x, 0.5 - row.y
            row.area = None if self.fixations else self._area(stem, cells)
            return
        width, height = self.screen or (math.nan, math.nan)
        if self.position != "pixels":
            share = 100 if self.position == "screen_percent" else 1
            x, y = x * width / share, y * height / share
        if self.origin == "bottom left":
            y = height - y
        elif self.origin == "center":
            x, y = width / 2 + x, height / 2 - y
        if self.screen and not self.fixations and not (0 <= x <= width and 0 <= y <= height):
            row.reason = OFF_SAMPLE
        area = self._area(stem, cells)
        if area is None:
            row.reason = NOT_A_NUMBER
            return
        row.x, row.y, row.area = (x - area.left) / area.width, (y - area.top) / area.height, area
        if self.shown:
            left, top, right, bottom = (number(cells[place]) for place in self.shown)
            across, down = self._image_size(stem, cells)
            row.x, row.y = (left + row.x * (right - left)) / across, (top + row.y * (bottom - top)) / down

    def _image_size(self, stem: str, cells: Sequence[str]) -> tuple[float, float]:
        """(width, height) of the image to which its pixels belong."""
        if self.sizes:
            return number(cells[self.sizes[0]]), number(cells[self.sizes[1]])
        if self.layout.image_size is not None:
            return self.layout.image_size
        return self.images.shown_size(stem) or (math.nan, math.nan)

    def _area(self, stem: str, cells: Sequence[str]) -> Area | None:
        """Where the image stood on the screen; None where the row's own columns do not say it."""
        if self.area:
            try:
                return Area(*(number(cells[place]) for place in self.area))
            except ConfigError:
                return None
        if stem not in self.areas:
            screen, size = self.layout.screen, self.images.size(stem) or (1, 1)
            self.areas[stem] = self.layout.area or fit(screen if screen.pixels else screen.monitor(), size)
        return self.areas[stem]


def _differ(cells: set[str]) -> bool:
    """Whether spellings of one image's name lie in different folders or end differently, so that they may be two images."""
    split = [cell.rpartition("/") for cell in cells]
    folders = {folder for folder, _, _ in split}
    return len(folders) > 1 or len({name.rpartition(".")[2] for _, _, name in split if "." in name}) > 1
