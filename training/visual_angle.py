"""Degrees of visual angle to canvas pixels, so that one sigma means the same on any screen."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from gazeseg_serve.errors import ConfigError

from .heatmap import CANVAS


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
