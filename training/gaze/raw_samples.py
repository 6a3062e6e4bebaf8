"""Raw gaze samples of any tracker to scan paths: a small mapping in TOML names files, columns, units and the screen.

files = ["raw/*.csv"]                    # beside the mapping
[columns]                                # the tracker's own names
time = "timestamp"
x = "gaze_x"                             # or ["left_x", "right_x"]: the mean of the eyes that are seen
y = "gaze_y"
image = "stimulus"                       # left out: a file's stem names its image
[units]
time = "ms"
position = "pixels"
[screen]
width_px = 1920 ...
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gazeseg_serve.contract import build
from gazeseg_serve.errors import ConfigError, ContractError, DatasetError

from .csv_table import match_stem, read_table
from .detection import Detection, Monitor, detect
from .fixations import (
    BACKWARDS,
    LOST,
    MALFORMED,
    NOT_A_NUMBER,
    OFF_SAMPLE,
    OFF_SCREEN,
    UNKNOWN_CLASS,
    UNKNOWN_IMAGE,
    Dropped,
    FixationTable,
    class_names,
    table_of,
)

MILLISECONDS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
POSITIONS = ("pixels", "screen", "image")


@dataclass(frozen=True)
class Columns:
    """Names of the columns; x and y may be several (eyes), of which the mean of those seen counts."""

    time: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    image: str | None = None
    validity: str | None = None
    label: str | None = None

    def names(self) -> list[str]:
        """Every column that must be there."""
        return [name for name in (self.time, *self.x, *self.y, self.image, self.validity, self.label) if name]


@dataclass(frozen=True)
class Units:
    """time: s, ms, us or ns. position: "pixels" or "screen" (0..1) of the screen, or "image" (0..1 of the image).

    valid: the cells of the validity column that mean a good sample, whatever their case.
    """

    time: str = "ms"
    position: str = "pixels"
    valid: tuple[str, ...] = ("1", "true", "valid")


@dataclass(frozen=True)
class Area:
    """Where an image stood on the screen, in screen pixels."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class GazeMapping:
    """One mapping file. `area` None: the image was as large as fits the screen, in its middle."""

    files: tuple[str, ...]
    columns: Columns
    screen: Monitor
    units: Units = field(default_factory=Units)
    area: Area | None = None
    detection: Detection = field(default_factory=Detection)


def load_mapping(path: Path | str) -> GazeMapping:
    """Read a mapping. Raises ConfigError for a file that is missing, not TOML, or has an unknown or wrong entry."""
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        columns = values.get("columns")
        if isinstance(columns, dict):
            values["columns"] = {
                name: [value] if name in ("x", "y") and isinstance(value, str) else value for name, value in columns.items()
            }
        mapping = build(GazeMapping, values, str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; write a mapping of your tracker's columns there") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except ContractError as error:
        raise ConfigError(str(error)) from error
    if mapping.units.time not in MILLISECONDS:
        raise ConfigError(f"{path}: unit of time {mapping.units.time!r}; known: {', '.join(MILLISECONDS)}")
    if mapping.units.position not in POSITIONS:
        raise ConfigError(f"{path}: unit of position {mapping.units.position!r}; known: {', '.join(POSITIONS)}")
    if len(mapping.columns.x) != len(mapping.columns.y):
        raise ConfigError(f"{path}: as many columns for x as for y are needed")
    if mapping.area is not None and not (mapping.area.width > 0 and mapping.area.height > 0):
        raise ConfigError(f"{path}: the area's width and height must be above 0")
    return mapping


def read_samples(
    path: Path | str, sizes: Mapping[str, tuple[int, int]], classes: tuple[str, ...] | None = None
) -> FixationTable:
    """Read the raw samples that the mapping at `path` names, and detect their fixations.

    `sizes` holds (height, width) by image stem. Listed and left out: rows with a cell that is no number, off the
    screen, of an unknown image or class, or with a time not above the one before; fixations outside the image (by
    the line of their first sample). Samples without gaze (blinks, invalid) are gaps, counted as `LOST` and not listed.
    Raises ConfigError for the mapping; DatasetError for files that are missing, empty, lack a column or keep no fixation.
    """
    path = Path(path)
    mapping = load_mapping(path)
    files = [file for pattern in mapping.files for file in sorted(path.parent.glob(pattern))]
    if not files:
        raise DatasetError(f"{path}: no file matches {', '.join(mapping.files)} in {path.parent}")
    rows = [row for file in files for row in _samples(file, mapping, set(sizes))]
    names = class_names(path, [row.label for row in rows], classes)
    labels = {name: i for i, name in enumerate(names, start=1)}
    dropped = [Dropped(row.file, row.line, row.image, row.reason) for row in rows if row.reason not in ("", LOST)]
    trials: dict[tuple[str, str, int], list[_Sample]] = {}
    for row in rows:
        label = labels.get(row.label, 0) if row.label else int(len(names) == 1)
        if row.reason in ("", LOST) and label == 0:
            dropped.append(Dropped(row.file, row.line, row.image, UNKNOWN_CLASS))
        elif row.reason in ("", LOST):
            trials.setdefault((row.image, row.file, label), []).append(row)
    found: dict[str, list[tuple[float, float, float, int]]] = {}
    for (stem, _, label), samples in trials.items():
        for fixation, row in _fixations(_in_time(samples, dropped), mapping, sizes[stem]):
            x, y, duration = fixation
            if 0 <= x <= 1 and 0 <= y <= 1:
                found.setdefault(stem, []).append((x, y, duration, label))
            else:
                dropped.append(Dropped(row.file, row.line, stem, OFF_SCREEN))
    lost = sum(row.reason == LOST for row in rows)
    return table_of(path, found, names, dropped, set(sizes), lost)


@dataclass(slots=True)
class _Sample:
    file: str
    line: int
    image: str
    label: str
    time: float
    x: float  # screen pixels, or shares of the image
    y: float
    reason: str


def _samples(file: Path, mapping: GazeMapping, known: set[str]) -> Iterator[_Sample]:
    columns, units = mapping.columns, mapping.units
    scale = {"pixels": (1.0, 1.0), "screen": (mapping.screen.width_px, mapping.screen.height_px), "image": (1.0, 1.0)}
    across, down = scale[units.position]
    limits = (1.0, 1.0) if units.position == "image" else (mapping.screen.width_px, mapping.screen.height_px)
    valid = {text.lower() for text in units.valid}
    for line, cells in read_table(file, columns.names()):
        if cells is None:
            yield _Sample(str(file), line, "", "", 0, 0, 0, MALFORMED)
            continue
        cell = cells[columns.image] if columns.image else file.stem
        if not cell:  # between two images
            continue
        stem, label = match_stem(cell, known), cells[columns.label] if columns.label else ""
        time = _number(cells[columns.time]) * MILLISECONDS[units.time]
        x, y = _eyes(cells, columns.x) * across, _eyes(cells, columns.y) * down
        reason = ""
        if stem not in known:
            reason = UNKNOWN_IMAGE
        elif not math.isfinite(time) or math.isinf(x) or math.isinf(y):
            reason = NOT_A_NUMBER
        elif (columns.validity and cells[columns.validity].lower() not in valid) or math.isnan(x) or math.isnan(y):
            reason, x, y = LOST, math.nan, math.nan
        elif units.position != "image" and not (0 <= x <= limits[0] and 0 <= y <= limits[1]):
            reason = OFF_SAMPLE
        yield _Sample(str(file), line, stem, label, time, x, y, reason)


def _in_time(samples: list[_Sample], dropped: list[Dropped]) -> list[_Sample]:
    """The samples whose time is above all before them; the others are added to `dropped`."""
    kept, last = [], -math.inf
    for row in samples:
        if row.time > last:
            kept.append(row)
            last = row.time
        else:
            dropped.append(Dropped(row.file, row.line, row.image, BACKWARDS))
    return kept


def _fixations(
    samples: list[_Sample], mapping: GazeMapping, size: tuple[int, int]
) -> Iterator[tuple[tuple[float, float, float], _Sample]]:
    """(x, y, duration) in shares of the image and ms, with the first sample of each fixation."""
    area = mapping.area or fit(mapping.screen, size)
    time, x, y = (np.array([getattr(row, name) for row in samples], np.float64) for name in ("time", "x", "y"))
    if mapping.units.position == "image":
        x, y = area.left + x * area.width, area.top + y * area.height
    found = detect(time, x, y, mapping.screen, mapping.detection)
    shares = zip((found.x - area.left) / area.width, (found.y - area.top) / area.height, found.duration, strict=True)
    for share, first in zip(shares, found.first, strict=True):
        yield (float(share[0]), float(share[1]), float(share[2])), samples[int(first)]


def fit(screen: Monitor, size: tuple[int, int]) -> Area:
    """An image of (height, width) as large as the screen allows, its proportions kept, in the middle."""
    height, width = size
    scale = min(screen.width_px / width, screen.height_px / height)
    shown = width * scale, height * scale
    return Area((screen.width_px - shown[0]) / 2, (screen.height_px - shown[1]) / 2, *shown)


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.inf if cell else math.nan


def _eyes(cells: Mapping[str, str], names: tuple[str, ...]) -> float:
    """The mean of the eyes that are seen; NaN where none is, inf where a cell is no number."""
    values = [_number(cells[name]) for name in names]
    seen = [value for value in values if not math.isnan(value)]
    return sum(seen) / len(seen) if seen else math.nan
