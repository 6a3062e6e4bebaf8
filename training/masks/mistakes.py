"""Mistakes that gaze suffers on its way from the tracker to the table, and how each would be undone.

Swapped axes, an origin at the bottom, another screen: each leaves numbers between 0 and 1 that look like gaze. What tells is
whether the gaze fits its images, or their true masks, better once the mistake is undone (`agreement`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Points = np.ndarray
"""`(K, 3)` float64: x and y in shares of the image, duration."""
Undo = Callable[[Points, float], Points]
"""Points of an image and its width over its height -> the points as they would have to be."""

TURNED, MOVED, SCREEN, MIXED = "turned", "moved", "screen", "mixed up"
_STEP = 0.1  # image sides


@dataclass(frozen=True)
class Mistake:
    """words   what was done to the gaze, to follow "as if"
    kind    TURNED (axes swapped, mirrored), MOVED (shifted or squeezed), SCREEN (shares of a screen with bars) or MIXED (of
            another image)
    undo    makes it good again
    """

    words: str
    kind: str
    undo: Undo


def mistakes() -> list[Mistake]:
    """Every turn and mirroring, moves by 0.1 and 0.2 of a side, scales about the top left corner, and screens with bars."""
    found = [
        Mistake("x and y were swapped", TURNED, _change(lambda x, y: (y, x))),
        Mistake("left and right were mirrored", TURNED, _change(lambda x, y: (1 - x, y))),
        Mistake("y were counted from the bottom", TURNED, _change(lambda x, y: (x, 1 - y))),
        Mistake("it were turned by 180 degrees", TURNED, _change(lambda x, y: (1 - x, 1 - y))),
        Mistake("it were turned by 90 degrees clockwise", TURNED, _change(lambda x, y: (y, 1 - x))),
        Mistake("it were turned by 90 degrees anticlockwise", TURNED, _change(lambda x, y: (1 - y, x))),
        Mistake("x and y were swapped and mirrored", TURNED, _change(lambda x, y: (1 - y, 1 - x))),
    ]
    moves = itertools.product(range(-2, 3), repeat=2)
    found += [_moved(across * _STEP, down * _STEP) for across, down in moves if across or down]
    for wide, high in ((2.0, 2.0), (1.5, 1.5), (1.5, 1.0), (1.0, 1.5)):
        words = f"it were squeezed towards the top left corner, to 1/{wide:g} of the width and 1/{high:g} of the height"
        found.append(Mistake(words, MOVED, _scale(wide, high)))
    for width, height in ((16, 9), (16, 10), (4, 3), (5, 4)):
        words = f"positions were shares of a {width}:{height} screen, the bars beside the image included"
        found.append(Mistake(words, SCREEN, _screen(width / height)))
    return found


def inside(points: Points) -> np.ndarray:
    """Which points are on the image: bool `(K,)`."""
    return np.asarray(((points[:, :2] >= 0) & (points[:, :2] <= 1)).all(axis=1))


def _moved(across: float, down: float) -> Mistake:
    parts = [
        f"{abs(value):.1f} of the {side} too far {way[value > 0]}"
        for value, side, way in ((across, "width", ("left", "right")), (down, "height", ("up", "down")))
        if value
    ]
    return Mistake(f"it lay about {' and '.join(parts)}", MOVED, _change(lambda x, y: (x - across, y - down)))


def _change(swap: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Undo:
    return lambda points, _: np.stack([*swap(points[:, 0], points[:, 1]), points[:, 2]], axis=1)


def _scale(wide: float, high: float) -> Undo:
    return _change(lambda x, y: (x * wide, y * high))


def _screen(screen: float) -> Undo:
    """The image stood on the screen as large as it fits, in the middle."""

    def undo(points: Points, aspect: float) -> Points:
        share = np.array([min(1.0, aspect / screen), min(1.0, screen / aspect), 1.0])  # of the screen that the image took
        return np.asarray((points - (0.5, 0.5, 0)) / share + (0.5, 0.5, 0))

    return undo
