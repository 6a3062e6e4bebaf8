"""What an export is asked for, and what its graph may differ by from the networks it stands for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gazeseg_serve.errors import ConfigError, GateError

if TYPE_CHECKING:
    from gazeseg_serve.training.learning.student import Student

STRATEGIES = ("fuse", "average", "best-level", "distill")
PRECISIONS = ("fp32", "fp16-weights", "int8", "fp16", "bf16")
FORMATS = ("onnx", "tensorrt")
ALARM_RATE = 0.1


@dataclass(frozen=True)
class Tolerance:
    """What an exact strategy may differ by: absolute, with no relative part; shares of pixels in [0, 1]."""

    max_difference: float = 1e-3
    flipped: float = 1e-4

    def __post_init__(self) -> None:
        if not (self.max_difference > 0 and self.flipped >= 0):
            raise GateError("a tolerance must be positive")


EXACT = Tolerance()


@dataclass(frozen=True)
class AllowedLoss:
    """What a lossy export may lose. Dice in [0, 1].

    max_dice_loss   of the mean Dice against the true masks, where there are any
    min_agreement   of the mean Dice with the ensemble's own masks; None: 0.97 without true masks, else no limit
    """

    max_dice_loss: float = 0.005
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_dice_loss <= 1 or not (self.min_agreement is None or 0 <= self.min_agreement <= 1):
            raise GateError("a limit of a Dice lies in [0, 1]")


LOSSY = AllowedLoss()


def check_rate(alarm_rate: float) -> None:
    """ConfigError for a rate of false alarms outside (0, 1)."""
    if not 0 < alarm_rate < 1:
        raise ConfigError(f"a rate of false alarms of {alarm_rate} is not between 0 and 1; 0.1 is usual")


@dataclass(frozen=True)
class ExportSettings:
    """What an export is asked for.

    strategy      fuse (all levels, exact), average, best-level or distill
    precision     fp32; fp16-weights (fp32 arithmetic, weights rounded and stored as float16); int8 (calibrated with training
                  images); fp16 (for GPUs); bf16: the fp32 graph, proven under OpenVINO in bf16, which is then how
                  `--device openvino` runs it
    format        onnx; or tensorrt, which builds a plan of the graph for this machine's GPU beside it: the gate then asks
                  the plan
    tolerance     how far the fp32 graph may be from the networks it was made of
    allowed       what a graph that is not the whole ensemble in fp32 may lose against it
    split, images the gate's images: of this split as the run recorded it, and at most so many; None: 32 for an exact export,
                  200 for a lossy one
    alarm_rate    share of images without a target that may be marked all the same: the presence threshold is chosen for it
                  (`choose_presence`) where the dataset has such images in the split
    pictures      False keeps the images out of the report, for data that may not be passed on
    student, student_run, unlabelled   of the strategy distill: its settings and its run folder (None: the defaults, and beside
                  the artifact with "-student" behind its name), and further folders of images to learn from
    """

    strategy: str = "fuse"
    precision: str = "fp32"
    format: str = "onnx"
    tolerance: Tolerance = EXACT
    allowed: AllowedLoss = LOSSY
    split: str = "val"
    images: int | None = None
    alarm_rate: float = ALARM_RATE
    pictures: bool = True
    student: Student | None = None
    student_run: Path | None = None
    unlabelled: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        for name, value, known in (
            ("strategy", self.strategy, STRATEGIES),
            ("precision", self.precision, PRECISIONS),
            ("format", self.format, FORMATS),
        ):
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        check_rate(self.alarm_rate)
        if self.format == "tensorrt":
            from gazeseg_serve.contract import PLAN_PRECISIONS  # the command line's help needs none of it

            if self.precision not in PLAN_PRECISIONS:
                raise ConfigError(f"a TensorRT plan is of {' or '.join(PLAN_PRECISIONS)}, not {self.precision}")

    @property
    def lossy(self) -> bool:
        """Whether the graph is less than the whole ensemble in fp32."""
        return self.strategy != "fuse" or self.precision != "fp32"

    @property
    def gate_images(self) -> int:
        return (200 if self.lossy else 32) if self.images is None else self.images

    def limits(self) -> dict[str, float | None]:
        """The gate's limits, as parity.json keeps them."""
        exact = {"max_difference_limit": self.tolerance.max_difference, "flipped_limit": self.tolerance.flipped}
        return exact | (vars(self.allowed) if self.lossy else {})

    @property
    def arithmetic(self) -> str:
        """The precision in which the graph computes, as the manifest says it."""
        return "fp32" if self.precision == "fp16-weights" else self.precision
