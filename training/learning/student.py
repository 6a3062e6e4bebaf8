"""The settings of a distilled student, a TOML file: its network, and how it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gazeseg_serve.errors import ConfigError, ContractError
from gazeseg_serve.records import from_dict, key
from gazeseg_serve.toml_file import read_toml

from ..networks.architecture import Architecture
from .config import PRECISIONS, Augment, Optimiser


@dataclass(frozen=True)
class Student:
    """The student and its schedule; the defaults serve a CPU."""

    width: int = key(16, "channels of the first stage")
    norm: str = key("batch", 'as network.norm; "batch" folds away at export')
    steps: int = key(2000, "training steps")
    batch: int = key(8, "images a step")
    rate: float = key(2e-3, "of AdamW, reached over the first tenth of the steps, then a half cosine to 1/1000 of it")
    seed: int = key(0, "of weights, order and augmentation")
    warm_start: bool = key(True, "begin with the weights of a level, where the student's network is the levels' own")
    precision: str = key("bf16-mixed", "32-true, bf16-mixed or 16-mixed")
    stride: int = key(1, "as network.stride")
    depth: int = key(5, "how many of the five stages there are, 2 to 5")
    views: int = key(
        0,
        "augmented views of each image for which the ensemble is asked once, and which are learned again and again; "
        "0: a new view each time",
    )
    encoder: str = key("unet", "as network.encoder")
    zoom: tuple[float, ...] = key((), "as augment.zoom, in place of 0.75 to 1.25, uniform")
    negatives: float = key(
        0.0,
        "share of each batch of images that the run's dataset lists in negatives.txt: background, whatever the ensemble says",
    )

    def __post_init__(self) -> None:
        if self.views < 0:
            raise ConfigError(f"{self.views} views; 0 is a new one each time")
        if self.steps < 1 or self.batch < 1 or not self.rate > 0:
            raise ConfigError(f"a student needs steps, batch and rate above 0, not {self.steps}, {self.batch}, {self.rate}")
        if not 0 <= self.negatives < 1:
            raise ConfigError(f"negatives {self.negatives} is a share of a batch: 0 or more, and less than 1")
        _ = self.architecture(3, 1), self.schedule, self.augment  # their own checks, with their own words
        if self.precision not in PRECISIONS:
            raise ConfigError(f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}")

    def architecture(self, channels: int, outputs: int) -> Architecture:
        """The network for images of `channels` and with `outputs` maps; ConfigError where the settings do not go together."""
        return Architecture(self.width, self.norm, channels, outputs, self.stride, self.depth, self.encoder)

    @property
    def augment(self) -> Augment:
        """Geometry alone: an ensemble is not asked of colours that it may not have been taught with. With brightness, contrast
        and noise a student of kvasir_imagenet's networks, which never saw such, lost 0.05 Dice (docs/performance/students.md).
        """
        return Augment(flips=True, rotate=45.0, scale=0.0 if self.zoom else 0.25, translate=0.1, zoom=self.zoom)

    @property
    def schedule(self) -> Optimiser:
        return Optimiser(
            "adamw", self.rate, self.rate / 1000, weight_decay=1e-2, warmup=0.1, steps=self.steps, batch=self.batch
        )


def load_student(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Student:
    """Read a student's TOML file, or take the defaults, and apply `key=value` overrides.

    Raises ConfigError that names the wrong value.
    """
    path = None if path is None else Path(path)
    try:
        return from_dict(Student, read_toml(path, overrides), "the student" if path is None else str(path))
    except ContractError as error:
        raise ConfigError(str(error)) from error
