"""What gaze becomes: one checked scan path an image, and a list of everything that was left out, with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gazeseg_serve.errors import DatasetError

DEFAULT_CLASS = "lesion"

OFF_SCREEN = "outside the image"
NOT_A_NUMBER = "not a number"
NEGATIVE = "negative duration"
TOO_LONG = "longer than a minute"
UNKNOWN_IMAGE = "unknown image"
AMBIGUOUS = "two images of one name"
UNKNOWN_CLASS = "unknown class"
DUPLICATE = "duplicated index"
BACKWARDS = "time runs backwards"
DOUBLED = "time stamp given twice"
MALFORMED = "wrong number of cells"
OFF_SAMPLE = "raw sample off the screen"
LOST = "no gaze in it"  # a blink or a lost track, coded as missing: counted, not listed
REASONS = (
    OFF_SCREEN,
    NOT_A_NUMBER,
    NEGATIVE,
    TOO_LONG,
    UNKNOWN_IMAGE,
    AMBIGUOUS,
    UNKNOWN_CLASS,
    DUPLICATE,
    BACKWARDS,
    DOUBLED,
    MALFORMED,
)


@dataclass(frozen=True)
class ScanPath:
    """The fixations of one image, in the order of the file.

    x, y        `(K,)` float64 in [0, 1], share of the image's width and height, origin top left
    duration    `(K,)` float64, ms, >= 0
    label       `(K,)` int64: the class a fixation belongs to, 1 for the first; all 1 where there is one class
    """

    x: np.ndarray
    y: np.ndarray
    duration: np.ndarray
    label: np.ndarray

    def __len__(self) -> int:
        return len(self.x)

    @property
    def gaze_ms(self) -> float:
        """Total duration, ms."""
        return float(self.duration.sum())

    def of(self, label: int) -> ScanPath:
        """The fixations of one class."""
        chosen = self.label == label
        return ScanPath(self.x[chosen], self.y[chosen], self.duration[chosen], self.label[chosen])


@dataclass(frozen=True)
class Dropped:
    """One row that was left out: where it stands (the header is line 1), and why (one of `REASONS`)."""

    file: str
    line: int
    image: str
    reason: str


@dataclass(frozen=True)
class FixationTable:
    """Checked scan paths by image stem, and everything that was left out.

    skipped     why an image has no scan path, by stem
    classes     the names in label order
    lost        rows in which the tracker says that it saw no gaze: gaps, and no fault of the table
    readers     where several readers looked: each one's own scan path, by stem and reader's name
    notes       what was recognised and how, what was assumed, and what was left aside, one sentence each
    plain       whether the gaze was a fixation table in this project's own columns
    rows        all rows that were read, the dropped and the lost ones included
    track_loss  share of the time in which the tracker had lost the eye, by image; images of which the table tells
    seconds     how long readers looked at each image, likewise
    """

    paths: Mapping[str, ScanPath]
    classes: tuple[str, ...] = (DEFAULT_CLASS,)
    dropped: tuple[Dropped, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    lost: int = 0
    readers: Mapping[str, Mapping[str, ScanPath]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    plain: bool = True
    rows: int = 0
    track_loss: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were dropped, by reason."""
        counts = Counter(row.reason for row in self.dropped) + Counter({LOST: self.lost})
        return dict(sorted(counts.items()))

    def require_clean(self) -> None:
        """Raises DatasetError naming the first dropped rows and skipped images, where there are any."""
        problems = [f"{row.file}, line {row.line}: {row.reason}" for row in self.dropped]
        problems += [f"{why} for image {stem}" for stem, why in self.skipped.items()]
        if problems:
            shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
            raise DatasetError(f"{len(problems)} problem(s) in the fixations: {shown}. Mend the table, or allow drops")


def scan_path(rows: list[tuple[float, float, float, int]]) -> ScanPath:
    """Fixations as (x, y, duration, label) to a scan path."""
    x, y, duration, label = (np.array(column) for column in zip(*rows, strict=True))
    return ScanPath(x.astype(np.float64), y.astype(np.float64), duration.astype(np.float64), label.astype(np.int64))
