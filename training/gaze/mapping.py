"""What the columns of a gaze file mean: written by a user in `gaze.toml`, known of a tracker's own format, or both.

    files = ["raw/*.csv"]                    # beside the mapping; left out: the fixations.csv beside it
    reader = "file"                          # each file is one reader; or the name of a column
    [columns]                                # the tracker's own names; left out: the file says it itself
    time = "timestamp"
    x = "gaze_x"                             # or ["left_x", "right_x"]: the mean of the eyes that are seen
    y = "gaze_y"
    image = "stimulus"                       # left out: a file's name is its image's
    [units]
    time = "ms"
    position = "pixels"
    [screen]
    width_px = 1920 ...

Every entry is None until somebody says it, so that `over` can lay a user's entries over a format's.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from gazeseg_serve.errors import ConfigError, ContractError, DatasetError
from gazeseg_serve.records import from_dict

from .detection import Detection, Monitor
from .file_text import decode

MILLISECONDS = {"s": 1000.0, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
AUTO = "auto"  # a format's unit of time that differs by version: the one in which the sampling rate is a tracker's
POSITIONS = ("pixels", "screen", "screen_percent", "image", "image_percent", "image_pixels")
ORIGINS = ("top left", "bottom left", "center")
_MANY = ("x", "y", "validity", "area", "shown", "image_size")  # columns of which there may be several
_PIXELS = (16, 65536)
_CM = {"width_cm": (5.0, 1000.0), "height_cm": (3.0, 1000.0), "distance_cm": (10.0, 2000.0)}
_ASSUMED_CM, _ASSUMED_DISTANCE = 52.7, 60.0  # a 24 inch screen at arm's length

Settings = TypeVar("Settings", bound="Columns | Units | Screen")


@dataclass(frozen=True)
class Columns:
    """Names of the columns. With a duration or an end a row is a fixation, without it a raw sample.

    x, y        one, or one an eye, of which the mean of those seen counts
    validity    one for all eyes, or one an eye
    eye         which eye a fixation belongs to, where both are listed
    area        left, top, width and height of the image on the screen, screen pixels
    shown       left, top, right and bottom of the part of the image that is shown there, image pixels
    image_size  width and height of the image to which image pixels belong
    """

    time: str | None = None
    x: tuple[str, ...] = ()
    y: tuple[str, ...] = ()
    image: str | None = None
    validity: tuple[str, ...] = ()
    label: str | None = None
    reader: str | None = None
    trial: str | None = None
    duration: str | None = None
    end: str | None = None
    index: str | None = None
    eye: str | None = None
    area: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    image_size: tuple[str, ...] = ()

    @property
    def fixations(self) -> bool:
        """Whether a row is a fixation."""
        return self.duration is not None or self.end is not None

    def without_reader(self) -> Columns:
        return dataclasses.replace(self, reader=None)


@dataclass(frozen=True)
class Units:
    """time, duration: s, ms, us or ns (duration: as time). position: one of `POSITIONS`; origin: one of `ORIGINS`.

    "center" counts upwards from the middle, "bottom left" upwards from the lower edge.
    valid       cells of the validity column that mean a good sample, whatever their case; or valid_from, valid_to: its limits
    missing     cells, and numbers, of a position that mean "no gaze", beside those that always do
    """

    time: str | None = None
    duration: str | None = None
    position: str | None = None
    origin: str | None = None
    valid: tuple[str, ...] | None = None
    valid_from: float | None = None
    valid_to: float | None = None
    missing: tuple[str, ...] | None = None

    def with_time(self, unit: str) -> Units:
        return dataclasses.replace(self, time=unit)


@dataclass(frozen=True)
class Screen:
    """The screen in pixels, and what the degrees of visual angle need: its size and the eyes' distance from it in cm."""

    width_px: int | None = None
    height_px: int | None = None
    width_cm: float | None = None
    height_cm: float | None = None
    distance_cm: float | None = None

    def __post_init__(self) -> None:
        for name in ("width_px", "height_px"):
            value = getattr(self, name)
            if value is not None and not _PIXELS[0] <= value <= _PIXELS[1]:
                raise ConfigError(f"screen {name} = {value} is no size of a screen, {_PIXELS[0]} to {_PIXELS[1]} pixels are")
        for name, (low, high) in _CM.items():
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"screen {name} = {value} is not within {low:g} to {high:g} cm{_unit_of(value, low, high)}")

    @property
    def pixels(self) -> tuple[int, int] | None:
        """(width, height), where both are known."""
        return None if self.width_px is None or self.height_px is None else (self.width_px, self.height_px)

    @property
    def physical(self) -> bool:
        """Whether the size in cm and the distance are known."""
        return None not in (self.width_cm, self.height_cm, self.distance_cm)

    def monitor(self) -> Monitor:
        """The screen for a detection; what is not known is a 24 inch screen of full HD at 60 cm."""
        width, height = self.pixels or (1920, 1080)
        across = self.width_cm or _ASSUMED_CM
        return Monitor(width, height, across, self.height_cm or across * height / width, self.distance_cm or _ASSUMED_DISTANCE)


def _unit_of(value: float, low: float, high: float) -> str:
    for scale, unit in ((100.0, "metres"), (0.1, "millimetres")):
        if math.isfinite(value) and low <= value * scale <= high:
            return f"; if these are {unit}, write {value * scale:g}"
    return ""


@dataclass(frozen=True)
class Area:
    """Where an image stood on the screen, in screen pixels."""

    left: float
    top: float
    width: float
    height: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.left + self.top + self.width + self.height) and self.width > 0 and self.height > 0):
            raise ConfigError(f"the area's width and height must be above 0, they are {self.width} and {self.height}")


@dataclass(frozen=True)
class GazeMapping:
    """One mapping file, or what a format says of itself.

    area        where every image stood; None: it was as large as fits the screen, in its middle
    areas       where single images stood, by name
    only        cells that a column must hold for a row to be gaze at all (the mouse has rows too)
    reader      "file": each file is one reader; else the name of the column that names the reader
    """

    files: tuple[str, ...] = ()
    columns: Columns = field(default_factory=Columns)
    screen: Screen = field(default_factory=Screen)
    units: Units = field(default_factory=Units)
    area: Area | None = None
    areas: dict[str, Area] = field(default_factory=dict)
    only: dict[str, tuple[str, ...]] = field(default_factory=dict)
    detection: Detection = field(default_factory=Detection)
    reader: str | None = None


def pixel_pair(values: Sequence[float]) -> tuple[int, int] | tuple[None, None]:
    """(width, height) in whole pixels of two numbers that can be a screen's; (None, None) of anything else."""
    if len(values) != 2 or not all(math.isfinite(value) and _PIXELS[0] <= value <= _PIXELS[1] for value in values):
        return None, None
    return round(values[0]), round(values[1])


def over(said: Settings, known: Settings) -> Settings:
    """The entries of `said`, and where it says nothing those of `known`."""
    pairs = {f.name: (getattr(said, f.name), getattr(known, f.name)) for f in dataclasses.fields(said)}
    return type(said)(**{name: known if own is None or own == () else own for name, (own, known) in pairs.items()})


def load_mapping(path: Path | str) -> GazeMapping:
    """Read a mapping. Raises ConfigError for a file that is missing, not TOML, or has an unknown or wrong entry."""
    path = Path(path)
    try:
        values = tomllib.loads(decode(path, path.read_bytes()))
        mapping = from_dict(GazeMapping, _listed(values), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; write a mapping of your tracker's columns there") from error
    except (tomllib.TOMLDecodeError, DatasetError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    except ContractError as error:
        raise ConfigError(str(error)) from error
    _check(path, mapping)
    return mapping


def _listed(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a mapping with a list wherever a list or one string may stand."""

    def listed(value: Any) -> Any:
        return [value] if isinstance(value, str | int | float) else value

    values = dict(values)
    for table, names in (("columns", _MANY), ("units", ("valid", "missing"))):
        if isinstance(values.get(table), dict):
            values[table] = {name: listed(v) if name in names else v for name, v in values[table].items()}
    if isinstance(values.get("units"), dict):
        for name in ("valid", "missing"):
            if isinstance(values["units"].get(name), list):
                values["units"][name] = [str(value) for value in values["units"][name]]
    if isinstance(values.get("only"), dict):
        values["only"] = {name: [str(v) for v in listed(cells)] for name, cells in values["only"].items()}
    if isinstance(values.get("files"), str):
        values["files"] = [values["files"]]
    if isinstance(values.get("area"), dict) and values["area"] and all(isinstance(v, dict) for v in values["area"].values()):
        values["areas"] = values.pop("area") | values.get("areas", {})  # [area."name"] for single images
    return values


def _check(path: Path, mapping: GazeMapping) -> None:
    columns, units = mapping.columns, mapping.units
    for value, known, what in (
        (units.time, MILLISECONDS, "unit of time"),
        (units.duration, MILLISECONDS, "unit of duration"),
        (units.position, POSITIONS, "unit of position"),
        (units.origin, ORIGINS, "origin"),
    ):
        if value is not None and value not in known:
            raise ConfigError(f"{path}: {what} {value!r}; known: {', '.join(known)}")
    if len(columns.x) != len(columns.y):
        raise ConfigError(f"{path}: as many columns for x as for y are needed")
    if len(columns.validity) not in (0, 1, len(columns.x)):
        raise ConfigError(f"{path}: {len(columns.validity)} columns of validity; give one, or one an eye")
    for name, count in (("area", 4), ("shown", 4), ("image_size", 2)):
        if len(getattr(columns, name)) not in (0, count):
            raise ConfigError(f"{path}: columns.{name} needs {count} columns")
    if units.valid_from is not None and units.valid_to is not None and units.valid_from > units.valid_to:
        raise ConfigError(f"{path}: valid_from {units.valid_from} is above valid_to {units.valid_to}")
    if columns.end is not None and columns.duration is None and columns.time is None:
        raise ConfigError(f"{path}: columns.end needs columns.time, where the fixation starts")
    if columns.x and not columns.fixations and columns.time is None:
        raise ConfigError(f"{path}: columns.time is missing; raw samples need it (fixations need columns.duration instead)")


def fit(screen: Screen | Monitor, size: tuple[int, int]) -> Area:
    """An image of (height, width) as large as the screen allows, its proportions kept, in the middle."""
    height, width = size
    across, down = screen.width_px or 0, screen.height_px or 0
    scale = min(across / width, down / height)
    shown = width * scale, height * scale
    return Area((across - shown[0]) / 2, (down - shown[1]) / 2, *shown)
