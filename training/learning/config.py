"""The training configuration: a TOML file to frozen dataclasses, read once at the edge."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gazeseg_serve.contract import InputSpec, from_dict
from gazeseg_serve.errors import ConfigError, ContractError

from ..networks.architecture import SIMILARITIES, Architecture

SCHEMES = ("full", "box", "point", "scribble")
SUPERVISIONS = ("gaze", *SCHEMES)
CONSISTENCIES = ("none", "pure", "prop")
MAPS = ("heatmaps", "refined")
OPTIMISERS = ("sgd", "adamw")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Data:
    """size, channels, normalisation, classes: as InputSpec. maps: which of the `masks` command's maps are cut.

    supervision "gaze"; or from true masks, to compare: "full", "box", "point", "scribble"
    (`training.learning.annotations`), where every level learns the same and `levels.thresholds` only counts them. With gaze
    each level cuts the maps at its threshold.

    sharpen     how much the averaged networks' logit counts beside the map's log odds in targets that are cut anew at
                every step (`training.learning.sharpen`); 1/3 is what `relabel` takes between two trainings; wants
                optimiser.average
    negatives   the share of each batch that shows nothing and teaches background: images that negatives.txt lists and, with
                gaze, crops that nobody looked at (`training.learning.negatives`). Below 1; 0 leaves them out
    """

    size: int = 224
    channels: int = 3
    normalisation: str = "imagenet"
    classes: tuple[str, ...] = ("lesion",)
    supervision: str = "gaze"
    maps: str = "refined"
    sharpen: float = 0.0
    negatives: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.negatives < 1:
            raise ConfigError(f"data.negatives = {self.negatives} is a share of a batch: 0 or more, and less than 1")
        _known("data.supervision", self.supervision, SUPERVISIONS)
        _known("data.maps", self.maps, MAPS)
        _within("data.sharpen", self.sharpen, 0, 10)
        if self.sharpen and self.supervision != "gaze":
            raise ConfigError(f"data.sharpen is of gaze maps; set it to 0 for supervision {self.supervision!r}")


@dataclass(frozen=True)
class Levels:
    """thresholds: one network each, in (0, 1). shared_start: all levels begin with the same weights, as released."""

    thresholds: tuple[float, ...] = (0.5, 0.3)
    shared_start: bool = True

    def __post_init__(self) -> None:
        if not self.thresholds or not all(0 < t < 1 for t in self.thresholds):
            raise ConfigError(f"levels.thresholds = {list(self.thresholds)}: name at least one, each between 0 and 1")


@dataclass(frozen=True)
class Network:
    """As `training.networks.unet.Architecture`."""

    width: int = 64
    norm: str = "group"
    stride: int = 1
    encoder: str = "unet"


@dataclass(frozen=True)
class Loss:
    """consistency "none", "pure" or "prop" (the method); weight is lambda; similarity, window and dilation are LPP's.

    dice        weight of the soft Dice loss beside the cross-entropy (Milletari et al., 3DV 2016); not of the method
    """

    consistency: str = "prop"
    weight: float = 3.0
    similarity: str = "cosine"
    window: int = 5
    dilation: int = 2
    dice: float = 0.0

    def __post_init__(self) -> None:
        _known("loss.consistency", self.consistency, CONSISTENCIES)
        _known("loss.similarity", self.similarity, SIMILARITIES)
        _within("loss.weight", self.weight, 0, 1000)
        _within("loss.dice", self.dice, 0, 1000)
        _at_least("loss.dilation", self.dilation, 1)
        if self.window < 1 or self.window % 2 == 0:
            raise ConfigError(f"loss.window = {self.window} must be odd: it is a square about a pixel")


@dataclass(frozen=True)
class Augment:
    """flips: on both axes, p = 0.5 each. The rest are ranges, 0 = off.

    rotate      degrees either way          scale       share either way       translate   share of the side
    zoom        in place of scale: the least and the greatest factor, log-uniform; (0.35, 2) shows things a third as large up
                to twice
    brightness  added, on [0, 1]            contrast    factor 1 +- this       noise       standard deviation on [0, 1]
    saturation  factor 1 +- this            hue         turns, up to 0.5
    """

    flips: bool = True
    rotate: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    zoom: tuple[float, ...] = ()
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("rotate", 180), ("translate", 1), ("brightness", 1), ("contrast", 1), ("saturation", 1)):
            _within(f"augment.{name}", getattr(self, name), 0, most)
        _within("augment.hue", self.hue, 0, 0.5)
        _within("augment.noise", self.noise, 0, 1)
        if not 0 <= self.scale < 1:
            raise ConfigError(f"augment.scale = {self.scale} must lie in [0, 1): a scale of 0 leaves no image")
        if self.zoom and not (len(self.zoom) == 2 and 0 < self.zoom[0] < self.zoom[1]):
            raise ConfigError(f"augment.zoom = {list(self.zoom)}: give the least factor and the greatest, like [0.35, 2.0]")
        if self.zoom and self.scale:
            raise ConfigError("augment.zoom is in place of augment.scale; set one of them to 0 or []")


@dataclass(frozen=True)
class Optimiser:
    """name "sgd" (Nesterov) or "adamw". The rate rises over `warmup` (share of the cycle), then falls by a half cosine.

    restarts    steps at which that begins anew, each time from half the rate (Loshchilov and Hutter, ICLR 2017)
    average     decay a step of the mean over past weights, which then is what is validated and kept; 0 keeps the last
    """

    name: str = "sgd"
    rate: float = 1e-2
    final_rate: float = 1e-4
    momentum: float = 0.99
    weight_decay: float = 4e-4
    warmup: float = 0.0
    restarts: tuple[int, ...] = ()
    average: float = 0.0
    steps: int = 15000
    batch: int = 8

    def __post_init__(self) -> None:
        _known("optimiser.name", self.name, OPTIMISERS)
        _at_least("optimiser.steps", self.steps, 1)
        _at_least("optimiser.batch", self.batch, 1)
        if not 0 < self.rate < math.inf:
            raise ConfigError(f"optimiser.rate = {self.rate} must be a number above 0; 0.01 or 0.002 are usual")
        _within("optimiser.final_rate", self.final_rate, 0, self.rate)
        _within("optimiser.weight_decay", self.weight_decay, 0, 1)
        _within("optimiser.warmup", self.warmup, 0, 1)
        for name in ("momentum", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optimiser.{name} = {getattr(self, name)} must lie in [0, 1)")
        cycles = (0, *self.restarts, self.steps)
        if any(later <= earlier for earlier, later in itertools.pairwise(cycles)):
            raise ConfigError(f"optimiser.restarts = {list(self.restarts)} must rise, between 0 and the steps")


@dataclass(frozen=True)
class TrainConfig:
    """The defaults are the paper's preset for Kvasir-SEG."""

    data: Data = field(default_factory=Data)
    levels: Levels = field(default_factory=Levels)
    network: Network = field(default_factory=Network)
    loss: Loss = field(default_factory=Loss)
    augment: Augment = field(default_factory=Augment)
    optimiser: Optimiser = field(default_factory=Optimiser)
    seed: int = 0
    precision: str = "32-true"
    channels_last: bool = True
    evaluate_every: int = 500
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        """What no section can check alone."""
        _known("precision", self.precision, PRECISIONS)
        _at_least("evaluate_every", self.evaluate_every, 1)
        _at_least("checkpoint_every", self.checkpoint_every, 1)
        if self.data.sharpen and not self.optimiser.average:
            raise ConfigError("data.sharpen is taught by averaged weights; set optimiser.average, 0.999 for instance")
        if self.data.supervision != "gaze" and self.levels.shared_start and len(self.levels.thresholds) > 1:
            raise ConfigError(
                f"supervision {self.data.supervision!r} teaches every level the same, so levels that start "
                "the same stay the same; set levels.shared_start = false, or name one threshold"
            )
        if self.network.encoder != "unet" and self.data.normalisation != "imagenet":
            raise ConfigError(
                f'encoder {self.network.encoder!r} has weights for data.normalisation = "imagenet", not '
                f'{self.data.normalisation!r}; set that, or network.encoder = "unet"'
            )
        _ = self.input_spec, self.architecture  # their own checks, with their own words
        if self.data.size % (16 * self.network.stride):
            raise ConfigError(
                f"data.size {self.data.size} is not a multiple of {16 * self.network.stride}, which a network of "
                f"stride {self.network.stride} halves four times"
            )

    @property
    def input_spec(self) -> InputSpec:
        d = self.data
        try:
            return InputSpec(d.size, d.channels, "stretch", d.normalisation, d.classes)
        except ContractError as error:
            raise ConfigError(f"data: {error}") from error

    @property
    def architecture(self) -> Architecture:
        n = self.network
        return Architecture(n.width, n.norm, self.data.channels, self.input_spec.outputs, n.stride, encoder=n.encoder)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _known(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name} = {value!r} is not known; use one of: {', '.join(known)}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} = {value} must be at least {least}")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} = {value} must lie in [{low}, {high}]")


def parse_config(values: dict[str, Any], where: str = "config") -> TrainConfig:
    """Raises ConfigError that names the unknown, missing or wrong value."""
    try:
        return from_dict(TrainConfig, values, where)
    except ContractError as error:
        raise ConfigError(str(error)) from error


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a TOML file and apply `section.key=value` overrides (values in TOML, bare words as text)."""
    return parse_config(read_toml(path, overrides), str(path))


def read_toml(path: Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The table of a TOML file (empty for None) with `section.key=value` overrides. Raises ConfigError."""
    try:
        values = tomllib.loads("" if path is None else path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; name a configuration such as configs/kvasir_small.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for override in overrides:
        apply_override(values, override)
    return values


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one `section.key=value` in a parsed TOML table, in place."""
    key, separator, text = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override!r}: write KEY=VALUE, for instance optimiser.steps=1000")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *sections, name = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override!r}: {section} is not a section")
    values[name] = value
