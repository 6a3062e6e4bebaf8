"""The masks folder: what the `masks` command writes and training reads.

    heatmaps/<stem>.png      16 bit, the image's own size; heatmaps/<class>/<stem>.png with several classes
    refined/<stem>.png       likewise, only with CRF
    pseudo_masks/level_<i>/  8 bit, 0 and 255 (labels 0..C with several classes); level 1 is the first threshold
    records/<stem>.json      what an image was made from, and its quality: an image whose record matches is not redone
    quality.csv, quality.html, masks.json (written last: a folder without it is not finished)
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gazeseg_serve.contract import build
from gazeseg_serve.errors import ConfigError, ContractError, DatasetError
from gazeseg_serve.files import read_json
from gazeseg_serve.imaging import read_map, resize_map

from .crf import CrfSettings
from .heatmap import gaussian_operator
from .visual_angle import Screen, canvas_sigma

MASKS_SCHEMA = "gazeseg-masks/1"
MASKS_FILE = "masks.json"
IGNORE = 255  # the target of a pixel that teaches nothing
HEATMAPS, REFINED, PSEUDO_MASKS, RECORDS = "heatmaps", "refined", "pseudo_masks", "records"


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
        gaussian_operator(self.sigma)  # raises ConfigError for a sigma that is no width
        if self.degrees is not None and self.screen is not None:
            canvas_sigma(self.degrees, self.screen, (1, 1))

    def canvas_sigma(self, size: tuple[int, int]) -> float | tuple[float, float]:
        """sigma in canvas pixels for an image of (height, width); two numbers (vertical, horizontal) from degrees."""
        if self.degrees is None or self.screen is None:
            return self.sigma
        return canvas_sigma(self.degrees, self.screen, size)


@dataclass(frozen=True)
class MasksInfo:
    """`masks.json`: the settings of a finished masks folder, its images and what was left out.

    fingerprint is a sha256 over the settings, classes and every image's inputs and outputs. relabelled, where a run
    sharpened the maps: the sha256 of that run, the fingerprint of the masks before, and the gain.
    """

    settings: MaskSettings
    classes: tuple[str, ...]
    stems: tuple[str, ...]
    skipped: dict[str, str]
    dropped: dict[str, int]
    fingerprint: str
    versions: dict[str, str]
    quality: dict[str, Any]
    verdict: str
    schema: str = MASKS_SCHEMA
    relabelled: dict[str, Any] | None = None


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


def pseudo_mask_levels(values: np.ndarray, thresholds: Sequence[float],
                       size: tuple[int, int] | None = None) -> np.ndarray:
    """Cut a map at each threshold: labels `(m, H, W)` uint8, in the order of `thresholds`.

    values      `(H, W)` float32 in [0, 1] -> 1 where value >= threshold, else 0
                `(C, H, W)`: one map a class -> the class 1..C with the highest map where that reaches the threshold,
                else 0; the first class wins a tie
    size        (height, width) to which the map is first resized, bilinearly; None keeps its own
    Raises ConfigError for thresholds outside (0, 1) or repeated.
    """
    levels = np.asarray(check_thresholds(thresholds), np.float32)[:, None, None]
    if size is not None:
        values = np.stack([resize_map(m, size) for m in values]) if values.ndim == 3 else resize_map(values, size)
    if values.ndim == 2:
        return (values >= levels).astype(np.uint8)
    best = (values.argmax(axis=0) + 1).astype(np.uint8)
    return np.where(values.max(axis=0) >= levels, best, np.uint8(0))


def soft_levels(values: np.ndarray, thresholds: Sequence[float], ramp: float, band: float,
                size: tuple[int, int] | None = None) -> np.ndarray:
    """Targets of a map `(H, W)` at each threshold, float16 `(m, H, W)` in [0, 1], and IGNORE where nothing is taught.

    A target rises from 0 at t - ramp / 2 to 1 at t + ramp / 2 (a step at t for ramp 0); pixels whose map lies within
    band / 2 of t are ignored. Raises ConfigError for thresholds outside (0, 1) or repeated.
    """
    levels = np.asarray(check_thresholds(thresholds), np.float32)[:, None, None]
    values = (values if size is None else resize_map(values, size))[None]
    targets = np.clip((values - levels) / ramp + 0.5, 0, 1) if ramp else (values >= levels).astype(np.float32)
    return np.where(np.abs(values - levels) < band / 2, np.float32(IGNORE), targets).astype(np.float16)


def map_files(folder: Path, kind: str, stem: str, classes: Sequence[str]) -> list[Path]:
    """The map files of one image, one a class; `kind` is "heatmaps" or "refined"."""
    if len(classes) == 1:
        return [folder / kind / f"{stem}.png"]
    return [folder / kind / name / f"{stem}.png" for name in classes]


def load_map(folder: Path | str, stem: str, refined: bool) -> np.ndarray:
    """The heatmap or the refined map of one image, at the image's own size, float32 in [0, 1].

    `(H, W)` for one class, `(C, H, W)` for several. Raises FileNotFoundError where this image has no map, DatasetError
    where the folder is not a finished masks folder or was made without CRF, MalformedImage for a damaged file.
    """
    folder = Path(folder)
    info = load_masks_info(folder)
    if refined and info.settings.crf is None:
        raise DatasetError(f"{folder} was made without CRF; train on its heatmaps, or make it again with --crf")
    files = map_files(folder, REFINED if refined else HEATMAPS, stem, info.classes)
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist")
    maps = [read_map(file) for file in files]
    return maps[0] if len(maps) == 1 else np.stack(maps)


def load_masks_info(folder: Path | str) -> MasksInfo:
    """Read `masks.json`; DatasetError where it is missing, ContractError where it is damaged or of another schema."""
    path = Path(folder) / MASKS_FILE
    try:
        return _read_info(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise DatasetError(f"{folder} holds no finished masks ({MASKS_FILE} is missing); "
                           f"make them with: gazeseg-serve masks DATASET --out {folder}") from None


@lru_cache(maxsize=8)
def _read_info(path: Path, changed: int) -> MasksInfo:
    data = read_json(path)
    found = data.get("schema") if isinstance(data, dict) else None
    if found != MASKS_SCHEMA:
        raise ContractError(f"{path} has schema {found!r}, this version reads {MASKS_SCHEMA!r}; make the masks again")
    return build(MasksInfo, data, str(path))


@cache
def versions() -> dict[str, str]:
    """Versions of what decides the bytes of a map."""
    names = ("gazeseg-serve", "numpy", "opencv-python-headless", "pydensecrf2", "scipy")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def settings_json(settings: MaskSettings) -> dict[str, Any]:
    """The settings as plain JSON values."""
    return dataclasses.asdict(settings)
