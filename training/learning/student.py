"""The settings of a distilled student, a TOML file: its network, and how it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gazeseg_serve.contract import from_dict
from gazeseg_serve.errors import ConfigError, ContractError

from ..networks.architecture import Architecture
from .config import PRECISIONS, Optimiser, read_toml


@dataclass(frozen=True)
class Student:
    """The student and its schedule; the defaults serve a CPU, where batch norm folds into the convolutions.

    width, norm, stride, depth, encoder   as `training.networks.unet.Architecture`
    warm_start    begin with the weights of a level where all five are the run's own
    rate          of AdamW, reached over the first tenth of the steps, then a half cosine to 1/1000 of it
    precision     of the arithmetic, as in training: 32-true, bf16-mixed or 16-mixed
    views         augmented views of each image for which the ensemble is asked once, and which are then learned again
                  and again: where it is dearer than the student and an image is seen more often than that. 0: a new view
                  each time
    """

    width: int = 16
    norm: str = "batch"
    steps: int = 2000
    batch: int = 8
    rate: float = 2e-3
    seed: int = 0
    warm_start: bool = True
    precision: str = "bf16-mixed"
    stride: int = 1
    depth: int = 5
    views: int = 0
    encoder: str = "unet"

    def __post_init__(self) -> None:
        if self.views < 0:
            raise ConfigError(f"{self.views} views; 0 is a new one each time")
        if self.steps < 1 or self.batch < 1 or not self.rate > 0:
            raise ConfigError(f"a student needs steps, batch and rate above 0, not {self.steps}, {self.batch}, {self.rate}")
        _ = self.architecture(3, 1), self.schedule  # their own checks, with their own words
        if self.precision not in PRECISIONS:
            raise ConfigError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")

    def architecture(self, channels: int, outputs: int) -> Architecture:
        return Architecture(self.width, self.norm, channels, outputs, self.stride, self.depth, self.encoder)

    @property
    def schedule(self) -> Optimiser:
        return Optimiser(
            "adamw", self.rate, self.rate / 1000, weight_decay=1e-2, warmup=0.1, steps=self.steps, batch=self.batch
        )


def load_student(path: Path | None = None, overrides: Sequence[str] = ()) -> Student:
    """Read a student's TOML file, or take the defaults, and apply `key=value` overrides.

    Raises ConfigError that names the wrong value.
    """
    try:
        return from_dict(Student, read_toml(path, overrides), "the student" if path is None else str(path))
    except ContractError as error:
        raise ConfigError(str(error)) from error
