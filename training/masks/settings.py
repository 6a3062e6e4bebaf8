"""What decides the maps and the masks, without numpy: width of a fixation, thresholds, CRF, screen.

A sigma in degrees of visual angle means the same on any screen.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gazeseg_serve.errors import ConfigError

CANVAS = 768  # side of the square canvas, pixels: the one on which the published sigmas are given


@dataclass(frozen=True)
class Screen:
    """The screen the reader looked at: its visible size and the eyes' distance, cm.

    The image is taken to be shown as large as fits the screen, its proportions kept.
    """

    width_cm: float
    height_cm: float
    distance_cm: float

    def __post_init__(self) -> None:
        for name in ("width_cm", "height_cm", "distance_cm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value <= 1000):
                raise ConfigError(f"screen {name} = {value} is not a length in cm; write it like 53x30@60")

    @classmethod
    def parse(cls, text: str) -> Screen:
        """Read "53x30@60": width x height @ distance, all in cm. Raises ConfigError."""
        number = r"(\d+(?:\.\d+)?)"
        found = re.fullmatch(rf"{number}x{number}@{number}", text.strip())
        if not found:
            raise ConfigError(f"screen {text!r} is not WIDTHxHEIGHT@DISTANCE in cm; write it like 53x30@60")
        return cls(*map(float, found.groups()))


def canvas_sigma(degrees: float, screen: Screen, size: tuple[int, int]) -> tuple[float, float]:
    """The canvas sigma (vertical, horizontal), pixels, of `degrees` of visual angle on an image of (height, width).

    A length seen under the angle a from the distance d is 2 d tan(a / 2); the canvas stretches the image to a square,
    so an image that is not square has two sigmas. Rounded to 0.01 px. Raises ConfigError unless 0 < degrees < 90.
    """
    if not (math.isfinite(degrees) and 0 < degrees < 90):
        raise ConfigError(f"sigma of {degrees} degrees is not an angle between 0 and 90; 1 to 2 is usual")
    height, width = size
    length = 2 * screen.distance_cm * math.tan(math.radians(degrees) / 2)
    shown_width = min(screen.width_cm, screen.height_cm * width / height)
    shown_height = shown_width * height / width
    return round(CANVAS * length / shown_height, 2), round(CANVAS * length / shown_width, 2)


@dataclass(frozen=True)
class CrfSettings:
    """Parameters of the bilateral pairwise term (Kraehenbuehl and Koltun, NIPS 2011).

    sxy         reach of the kernel in image pixels
    srgb        reach of the kernel in 8-bit colour steps
    compat      weight of the term (Potts)
    iterations  mean-field steps
    """

    sxy: float = 80.0
    srgb: float = 13.0
    compat: float = 1.0
    iterations: int = 10

    def __post_init__(self) -> None:
        for name, low, high in (("sxy", 0.01, 10_000), ("srgb", 0.01, 1_000), ("compat", 0.0, 1_000)):
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ConfigError(f"CRF setting {name} = {value} is outside {low}..{high}")
        if not 1 <= self.iterations <= 1000:
            raise ConfigError(f"CRF setting iterations = {self.iterations} is outside 1..1000")


def parse_crf(changes: Sequence[str]) -> CrfSettings:
    """The settings with changes like "sxy=60". Raises ConfigError for an unknown name or a value that is no number."""
    kinds = {"sxy": float, "srgb": float, "compat": float, "iterations": int}
    values = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in kinds:
            raise ConfigError(f"unknown CRF setting {change!r}; write NAME=VALUE with one of {', '.join(kinds)}")
        try:
            values[name] = kinds[name](value)
        except ValueError:
            raise ConfigError(f"CRF setting {change!r} is not {'a whole' if kinds[name] is int else 'a'} number") from None
    return CrfSettings(**values)


def check_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    """The thresholds as a tuple; ConfigError unless there is at least one, all in (0, 1) and distinct."""
    if not thresholds:
        raise ConfigError("no threshold; give one or more, like 0.5,0.3")
    for value in thresholds:
        if not (math.isfinite(value) and 0 < value < 1):
            raise ConfigError(f"threshold {value} is not between 0 and 1; maps are probabilities, so 0.5 or 0.3 are usual")
    if len(set(thresholds)) != len(thresholds):
        raise ConfigError(f"thresholds {', '.join(map(str, thresholds))} repeat one; each level needs its own")
    return tuple(thresholds)


def parse_thresholds(text: str) -> tuple[float, ...]:
    """Read "0.5,0.3". Raises ConfigError."""
    try:
        return check_thresholds([float(part) for part in text.split(",")])
    except ValueError:
        raise ConfigError(f"thresholds {text!r} are not numbers; write them like 0.5,0.3") from None


def check_sigma(sigma: float, side: int = CANVAS) -> float:
    """The width of a fixation, in pixels of a canvas of `side` pixels; ConfigError unless it is in (0, side]."""
    if not (math.isfinite(sigma) and 0 < sigma <= side):
        raise ConfigError(f"sigma {sigma} is not a width in canvas pixels above 0 and up to {side}; try 70")
    return sigma


@dataclass(frozen=True)
class MaskSettings:
    """What decides the maps and masks.

    sigma       of the heatmap, in pixels of the 768-pixel canvas; 70 for Kvasir-SEG, 50 for NCI-ISBI
    thresholds  of the levels, each in (0, 1), distinct, in the order of the levels
    crf         the refinement, or None for none
    classes     names of the classes in label order; None takes them from the fixation table
    degrees     sigma in degrees of visual angle instead, with the `screen` it was seen on
    """

    sigma: float = 70.0
    thresholds: tuple[float, ...] = (0.5, 0.3)
    crf: CrfSettings | None = field(default_factory=CrfSettings)
    classes: tuple[str, ...] | None = None
    degrees: float | None = None
    screen: Screen | None = None

    def __post_init__(self) -> None:
        check_thresholds(self.thresholds)
        if (self.degrees is None) != (self.screen is None):
            raise ConfigError("sigma in degrees needs the screen it was seen on, and a screen needs sigma in degrees")
        check_sigma(self.sigma)
        if self.degrees is not None and self.screen is not None:
            canvas_sigma(self.degrees, self.screen, (1, 1))

    def canvas_sigma(self, size: tuple[int, int]) -> float | tuple[float, float]:
        """sigma in canvas pixels for an image of (height, width); two numbers (vertical, horizontal) from degrees."""
        if self.degrees is None or self.screen is None:
            return self.sigma
        return canvas_sigma(self.degrees, self.screen, size)


def settings_json(settings: MaskSettings) -> dict[str, Any]:
    """The settings as plain JSON values."""
    return dataclasses.asdict(settings)
