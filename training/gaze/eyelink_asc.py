"""EyeLink .asc, as SR Research's edf2asc writes it: samples or EFIX events, and messages that say which image was shown.

    MSG 2154500 !V IMGLOAD CENTER images/l.png 960 540      the image, and where it stood
    MSG 2154500 !V TRIAL_VAR picture l.png                  written after the trial: the image of the whole trial
    EFIX R 2154557 2154800 244 480.5 779.5 784              start, end and duration in ms, position in pixels
    2154557 480.5 779.5 784.0 ...                           a sample of one eye; x y pupil of the other one follow

Fixations that the tracker found itself are taken where there are any; without an image's name the file's name is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gazeseg_serve.errors import DatasetError

from .csv_table import Table, number
from .layout import Layout
from .mapping import Area, Columns, Screen, Units, pixel_pair
from .names import ImageNames

_COORDS = re.compile(r"(?:DISPLAY|GAZE)_COORDS\s+(-?[\d.]+)[\s,]+(-?[\d.]+)[\s,]+(-?[\d.]+)[\s,]+(-?[\d.]+)")
_IMGLOAD = re.compile(r"!V\s+IMGLOAD\s+(FILL|CENTER|TOP_LEFT)\s+(.+)", re.IGNORECASE)
_TRIAL_VAR = re.compile(r"!V\s+TRIAL_VAR\s+(\S+)\s+(.+)", re.IGNORECASE)
_PLACE = re.compile(r"^(.*?)((?:\s+-?\d+(?:\.\d+)?){2,4})$")
_FIXATIONS = ("eye", "start", "duration", "x", "y", "image", "trial")
_SAMPLES = ("time", "left_x", "left_y", "right_x", "right_y", "image", "trial")
_IMAGE = 5  # the place of the image in either


@dataclass
class _Trial:
    """One stretch of the recording: its rows, and the images that its messages name."""

    number: int
    fixations: list[tuple[int, list[str]]] = field(default_factory=list)
    samples: list[tuple[int, list[str]]] = field(default_factory=list)
    variables: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)


def is_asc(text: str) -> bool:
    """Whether a text begins as edf2asc writes it."""
    head = [line for line in text[:20000].splitlines() if line.strip()][:60]
    if head and head[0].startswith("** ") and any("EYELINK" in line or "CONVERTED" in line for line in head[:12]):
        return True
    return sum(re.match(r"(?:MSG|START|SAMPLES|EVENTS|PRESCALER|SFIX|EFIX|INPUT)\s", line) is not None for line in head) >= 3


def read(path: Path, lines: Sequence[str], images: ImageNames) -> Layout:
    """The layout of an .asc file. Raises DatasetError where it holds raw pupil or head-referenced positions."""
    reader = _Reader(path, images)
    for line, text in enumerate(lines, start=1):
        reader.line(line, text)
    return reader.layout()


class _Reader:
    def __init__(self, path: Path, images: ImageNames) -> None:
        self.path, self.images = path, images
        self.trials = [_Trial(0)]
        self.by_id = False  # whether TRIALID messages, not START lines, begin a trial
        self.eyes: tuple[str, ...] = ("L", "R")
        self.screen = Screen()
        self.areas: dict[str, Area] = {}

    def line(self, line: int, text: str) -> None:
        words = text.split()
        first = words[0] if words else ""
        trial = self.trials[-1]
        image = trial.loaded[-1] if trial.loaded else ""
        if first[:1].isdigit():
            cells = [first, "", "", "", "", image, str(trial.number)]
            for place, eye in enumerate(self.eyes):
                at, pair = (1 if eye == "L" else 3), words[1 + 3 * place : 3 + 3 * place]
                cells[at : at + 2] = pair if len(pair) == 2 else ["", ""]
            trial.samples.append((line, cells))
        elif first == "MSG":
            self._message(" ".join(words[2:]))
        elif first == "EFIX" and len(words) >= 7:
            eye, start, _, duration, x, y = words[1:7]
            trial.fixations.append((line, [eye, start, duration, x, y, image, str(trial.number)]))
        elif first == "START":
            self.eyes = tuple(name[0] for name in words if name in ("LEFT", "RIGHT")) or self.eyes
            if not self.by_id:
                self._begin()
        elif first in ("SAMPLES", "EVENTS") and len(words) > 1 and words[1] in ("HREF", "PUPIL", "RAW"):
            raise DatasetError(
                f"{self.path}, line {line}: its positions are {words[1]}, not on the screen; "
                "convert the .edf again with edf2asc, gaze positions chosen"
            )

    def _message(self, text: str) -> None:
        text = re.sub(r"^-?\d+\s+(?=!V)", "", text)  # an offset of the message's time
        if text.startswith("TRIALID"):
            self.by_id = True
            self._begin()
        elif match := _COORDS.search(text):
            left, top, right, bottom = (number(part) for part in match.groups())
            self.screen = Screen(*pixel_pair((right - left + 1, bottom - top + 1)))
        elif match := _IMGLOAD.match(text):
            self._load(match[1].upper(), match[2].strip())
        elif match := _TRIAL_VAR.match(text):
            self.trials[-1].variables.append(match[2].strip())

    def _begin(self) -> None:
        self.trials.append(_Trial(self.trials[-1].number + 1))

    def _load(self, how: str, rest: str) -> None:
        """An IMGLOAD message: "path", "path x y" or "path x y width height"; a path may hold spaces."""
        match = _PLACE.match(rest)
        name, place = (match[1], [number(part) for part in match[2].split()]) if match else (rest, [])
        self.trials[-1].loaded.append(name)
        size = tuple(place[2:]) if len(place) == 4 else self.images.shown_size(name)
        if how == "FILL" and self.screen.pixels:
            self.areas[name] = Area(0, 0, *self.screen.pixels)
        elif how != "FILL" and len(place) >= 2 and size is not None and min(size) > 0:
            left, top = (place[0] - size[0] / 2, place[1] - size[1] / 2) if how == "CENTER" else place[:2]
            self.areas[name] = Area(left, top, *size)

    def layout(self) -> Layout:
        for trial in self.trials:
            # One image loaded at any time of a trial is the image of the trial; of several, each from its message on.
            alone = trial.loaded[0] if len(set(trial.loaded)) == 1 else None
            named = alone or next((value for value in trial.variables if self.images.match(value)), "")
            for _, cells in (*trial.fixations, *trial.samples):
                cells[_IMAGE] = cells[_IMAGE] or named
        fixations = [row for trial in self.trials for row in trial.fixations]
        rows = fixations or [row for trial in self.trials for row in trial.samples]
        image = "image" if any(cells[_IMAGE] for _, cells in rows) else None
        if fixations:
            columns = Columns("start", ("x",), ("y",), image, duration="duration", trial="trial", eye="eye")
        else:
            columns = Columns("time", ("left_x", "right_x"), ("left_y", "right_y"), image, trial="trial")
        return Layout(
            "EyeLink .asc",
            f"its lines; {'the fixations that the tracker found (EFIX)' if fixations else 'its samples'} are read",
            Table(self.path, _FIXATIONS if fixations else _SAMPLES, records=rows),
            columns,
            Units("ms", "ms", "pixels", "top left"),
            self.screen,
            areas=self.areas,
            made=True,
        )
