"""The training configuration: a TOML file to frozen dataclasses, read once at the edge."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.errors import ConfigError, ContractError
from gazeseg_serve.records import from_dict, key
from gazeseg_serve.toml_file import read_toml

from ..networks.architecture import SIMILARITIES, Architecture
from .rivals.choice import check_rival

SCHEMES = ("full", "box", "box_points", "extreme", "point", "scribble")
SUPERVISIONS = ("gaze", *SCHEMES)
LARGEST = 2048  # pixels a side
CONSISTENCIES = ("none", "pure", "prop")
MAPS = ("heatmaps", "refined")
OPTIMISERS = ("sgd", "adamw")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


@dataclass(frozen=True)
class Data:
    """What is learned from."""

    size: int = key(
        224, "side of the square that every image is stretched to, in pixels; a multiple of 16 times network.stride"
    )
    channels: int = key(3, "3 for colour, 1 for grey")
    normalisation: str = key(
        "imagenet", '"imagenet": mean and deviation of ImageNet, on 8 bit; "zscore": each image by its own, at its own depth'
    )
    window: tuple[float, ...] = key(
        (), "of CT: the least and the greatest Hounsfield unit, black and white in every image; [] takes a file's own scale"
    )
    classes: tuple[str, ...] = key(("lesion",), "names of the foreground classes, in label order")
    supervision: str = key(
        "gaze",
        '"gaze"; or from true masks, to compare: "full", "box", "box_points", "extreme", "point", "scribble", where every '
        "level learns the same and levels.thresholds only counts them",
    )
    maps: str = key("refined", 'which of the maps that `masks` wrote are cut: "refined" by the CRF, or "heatmaps"')
    sharpen: float = key(
        0.0,
        "how much the averaged networks' logit counts beside the map's log odds in targets that are cut anew at every"
        " step; 1/3 is what `relabel` takes between two trainings; 0 is off; wants optimiser.average",
    )
    negatives: float = key(
        0.0,
        "share of each batch that shows nothing and teaches background: images that negatives.txt lists and, with "
        "gaze, crops that nobody looked at; below 1, 0 leaves them out",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.negatives < 1:
            raise ConfigError(f"data.negatives = {self.negatives} is a share of a batch: 0 or more, and less than 1")
        _known("data.supervision", self.supervision, SUPERVISIONS)
        if len(self.window) not in (0, 2):
            raise ConfigError(f"data.window = {list(self.window)}: give the least and the greatest Hounsfield unit, or []")
        if self.size > LARGEST:
            raise ConfigError(f"data.size = {self.size} is above {LARGEST}, the largest image that a network takes here")
        _known("data.maps", self.maps, MAPS)
        _within("data.sharpen", self.sharpen, 0, 10)
        if self.sharpen and self.supervision != "gaze":
            raise ConfigError(f"data.sharpen is of gaze maps; set it to 0 for supervision {self.supervision!r}")


@dataclass(frozen=True)
class Levels:
    """The peer networks."""

    thresholds: tuple[float, ...] = key((0.5, 0.3), "where each level cuts the map, one network a threshold, in (0, 1)")
    shared_start: bool = key(True, "whether all levels begin with the same weights, as released")

    readers: tuple[str, ...] = key(
        (),
        "levels of several readers: level i is cut from the masks folder of this name beside the one trained on, where that"
        " reader saw the image, else from the latter; `masks --pool each` makes them",
    )

    def __post_init__(self) -> None:
        if not self.thresholds or not all(0 < t < 1 for t in self.thresholds):
            raise ConfigError(f"levels.thresholds = {list(self.thresholds)}: name at least one, each between 0 and 1")
        if len(self.readers) not in (0, len(self.thresholds)):
            raise ConfigError(
                f"levels.readers names {len(self.readers)}, levels.thresholds {len(self.thresholds)}: name a reader a level"
            )
        if any(Path(name).name != name for name in self.readers):
            raise ConfigError(f"levels.readers = {list(self.readers)} are names of folders beside the masks, not paths")


@dataclass(frozen=True)
class Network:
    """One level; more of each key in `training.networks.architecture.Architecture`."""

    width: int = key(64, "channels of the first stage, a multiple of 4; 64 is the paper's network")
    norm: str = key("group", '"group" (4 groups, as released), "batch" (folds into the convolutions at export) or "instance"')
    stride: int = key(
        1,
        "blocks of stride x stride pixels become channels before the first convolution: 2 does a quarter of the work;"
        " 1, 2 or 4",
    )
    encoder: str = key(
        "unet", '"unet" begins from nothing; "efficientnet-lite0" is a pretrained encoder and wants norm "batch" and stride 2'
    )


@dataclass(frozen=True)
class Loss:
    """Zhong et al., MICCAI 2024, equations 4 and 5, and a Dice loss (Milletari et al., 3DV 2016)."""

    consistency: str = key("prop", '"prop" (the method: propagated), "pure" (its ablation) or "none"')
    weight: float = key(3.0, "lambda, the weight of the consistency")
    similarity: str = key("cosine", '"cosine" (the paper) or "dot" (the release), of local pixel propagation')
    window: int = key(5, "side of the window of local pixel propagation, in pixels; odd")
    dilation: int = key(2, "step between the pixels of that window")
    dice: float = key(0.0, "weight of the soft Dice loss beside the cross-entropy; not of the method, 0 is off")
    rival: str = key(
        "",
        'a loss made for another annotation, to compare: "boxinst" or "boxteacher" in place of the plain losses on boxes, '
        '"pointsup" on box_points, "agmm" beside them on points, scribbles or extreme points; "" is none',
    )

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
    """Ranges, each drawn anew for each image; 0 is off. Geometry moves image and pseudo-mask alike."""

    flips: bool = key(True, "on both axes, each with probability 0.5")
    rotate: float = key(0.0, "degrees either way")
    scale: float = key(0.0, "share either way: 0.25 is a factor from 0.75 to 1.25")
    translate: float = key(0.0, "share of the side, either way")
    zoom: tuple[float, ...] = key(
        (),
        "in place of scale: the least and the greatest factor, log-uniform; [0.35, 2.0] shows things a third as large"
        " up to twice",
    )
    brightness: float = key(0.0, "added, on [0, 1]")
    contrast: float = key(0.0, "factor 1 +- this")
    saturation: float = key(0.0, "factor 1 +- this")
    hue: float = key(0.0, "turns either way, up to 0.5")
    noise: float = key(0.0, "standard deviation on [0, 1]")

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
    """The rate rises over the warm-up, then falls by a half cosine (Loshchilov and Hutter, ICLR 2017)."""

    name: str = key("sgd", '"sgd" (Nesterov) or "adamw"')
    rate: float = key(1e-2, "learning rate after the warm-up")
    final_rate: float = key(1e-4, "learning rate at the end of the half cosine")
    momentum: float = key(0.99, "of sgd")
    weight_decay: float = key(4e-4, "of either")
    warmup: float = key(0.0, "share of a cycle over which the rate rises")
    restarts: tuple[int, ...] = key((), "steps at which the cycle begins anew, each time from half the rate")
    average: float = key(
        0.0, "decay a step of the mean over past weights, which then is what is validated and kept; 0 keeps the last"
    )
    steps: int = key(15000, "training steps")
    batch: int = key(8, "images a step, over all processes")

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
    seed: int = key(0, "of weights, order and augmentation")
    precision: str = key("32-true", "32-true, bf16-mixed or 16-mixed")
    channels_last: bool = key(True, "memory format; faster on most CPUs and GPUs")
    evaluate_every: int = key(500, "steps between two validations")
    checkpoint_every: int = key(250, "steps between two checkpoints")

    def __post_init__(self) -> None:
        """What no section can check alone."""
        _known("precision", self.precision, PRECISIONS)
        _at_least("seed", self.seed, 0)
        _at_least("evaluate_every", self.evaluate_every, 1)
        _at_least("checkpoint_every", self.checkpoint_every, 1)
        if self.data.sharpen and not self.optimiser.average:
            raise ConfigError("data.sharpen is taught by averaged weights; set optimiser.average, 0.999 for instance")
        if self.levels.readers and (self.data.sharpen or self.data.supervision != "gaze"):
            raise ConfigError("levels.readers are levels of gaze maps as they are; leave sharpening and other supervision out")
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
        outputs, rotate = self.input_spec.outputs, self.augment.rotate
        check_rival(self.loss.rival, self.data.supervision, outputs, rotate, self.optimiser.average)
        if self.data.size % (16 * self.network.stride):
            raise ConfigError(
                f"data.size {self.data.size} is not a multiple of {16 * self.network.stride}, which a network of "
                f"stride {self.network.stride} halves four times"
            )

    @property
    def input_spec(self) -> InputSpec:
        d = self.data
        try:
            window = (d.window[0], d.window[1]) if len(d.window) == 2 else None
            return InputSpec(d.size, d.channels, "stretch", d.normalisation, d.classes, window=window)
        except ContractError as error:
            raise ConfigError(f"data: {error}") from error

    @property
    def architecture(self) -> Architecture:
        n = self.network
        return Architecture(n.width, n.norm, self.data.channels, self.input_spec.outputs, n.stride, encoder=n.encoder)

    def as_dict(self) -> dict[str, Any]:
        """The sections and keys as plain values, as run.json keeps them."""
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


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a TOML file and apply `section.key=value` overrides (values in TOML, bare words as text)."""
    return parse_config(read_toml(Path(path), overrides), str(path))
