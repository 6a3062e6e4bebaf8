"""The masks folder: what the `masks` command writes and training reads.

heatmaps/<stem>.png      16 bit, the image's own size; heatmaps/<class>/<stem>.png with several classes
refined/<stem>.png       likewise, only with CRF
pseudo_masks/level_<i>/  8 bit, 0 and 255 (labels 0..C with several classes); level 1 is the first threshold
records/<stem>.json      what an image was made from, and its quality: an image whose record matches is not redone
quality.csv, quality.html, masks.json (written last: a folder without it is not finished)
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from gazeseg_serve.errors import ContractError, DatasetError
from gazeseg_serve.files import read_json, sha256_file
from gazeseg_serve.folders import Kind, claim_folder, json_of
from gazeseg_serve.png import read_map
from gazeseg_serve.records import from_dict

from .settings import MaskSettings

MASKS_SCHEMA = "gazeseg-masks/1"
MASKS_FILE = "masks.json"
HEATMAPS, REFINED, PSEUDO_MASKS, RECORDS = "heatmaps", "refined", "pseudo_masks", "records"
QUALITY_FILE, REPORT_FILE, DROPPED_FILE, DETECTED_FILE = "quality.csv", "quality.html", "dropped.csv", "detected_fixations.csv"
_NAMES = (HEATMAPS, REFINED, PSEUDO_MASKS, RECORDS, QUALITY_FILE, REPORT_FILE, DROPPED_FILE, DETECTED_FILE, MASKS_FILE)


@dataclass(frozen=True)
class MasksInfo:
    """`masks.json`: the settings of a finished masks folder, its images and what was left out.

    fingerprint is a sha256 over the settings, classes and every image's inputs and outputs. relabelled, where a run
    sharpened the maps: the sha256 of that run, the fingerprint of the masks before, and the gain. negatives: the images that
    negatives.txt listed, which have no map.
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
    negatives: tuple[str, ...] = ()


def claim_masks_folder(out: Path) -> None:
    """Make sure that `masks` may write into `out`, which may be the dataset folder; ContractError where it may not.

    A folder of relabelled maps is not its own: their making took a training.
    """
    info = json_of(out / MASKS_FILE)
    claim_folder(out, "masks", _NAMES, ours=info.get("schema") == MASKS_SCHEMA and not info.get("relabelled"))


def _relabelled(folder: Path) -> set[str] | None:
    """The files of a folder that `relabel` made."""
    info = json_of(folder / MASKS_FILE)
    if info.get("schema") != MASKS_SCHEMA or not info.get("relabelled"):
        return None
    stems, classes = info.get("stems", ()), info.get("classes", ())
    files = [file for stem in stems for kind in (HEATMAPS, REFINED) for file in map_files(folder, kind, stem, classes)]
    return {
        MASKS_FILE,
        QUALITY_FILE,
        *(file.relative_to(folder).as_posix() for file in files),
        *(f"{RECORDS}/{stem}.json" for stem in stems),
    }


RELABELLED_FOLDER = Kind("a folder of relabelled maps", _relabelled)


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
        if stem not in info.stems or not file.is_file():
            raise FileNotFoundError(f"{file} does not exist")
    maps = [read_map(file) for file in files]
    return maps[0] if len(maps) == 1 else np.stack(maps)


def check_map(folder: Path | str, stem: str, values: np.ndarray, image: Path, size: Sequence[int]) -> None:
    """Raise DatasetError unless the map `values` `(..., H, W)` was made of this image file, whose (height, width) is `size`."""
    made_of = json_of(Path(folder) / RECORDS / f"{stem}.json").get("image_sha256")
    if values.shape[-2:] != tuple(size):
        height, width = values.shape[-2:]
        what = f"is {width} x {height} pixels and its image {size[1]} x {size[0]}"
    elif made_of is not None and made_of != sha256_file(image):
        what = "was made of another image of that name and size"
    else:
        return
    raise DatasetError(f"the map of {stem} in {folder} {what}; make the masks of this dataset again")


def load_masks_info(folder: Path | str) -> MasksInfo:
    """Read `masks.json`; DatasetError where it is missing, ContractError where it is damaged or of another schema."""
    path = Path(folder) / MASKS_FILE
    try:
        return _read_info(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise DatasetError(
            f"{folder} holds no finished masks ({MASKS_FILE} is missing); "
            f"make them with: gazeseg-serve masks DATASET --out {folder}"
        ) from None


@lru_cache(maxsize=8)
def _read_info(path: Path, changed: int) -> MasksInfo:
    data = read_json(path)
    found = data.get("schema") if isinstance(data, dict) else None
    if found != MASKS_SCHEMA:
        raise ContractError(f"{path} has schema {found!r}, this version reads {MASKS_SCHEMA!r}; make the masks again")
    return from_dict(MasksInfo, data, str(path))


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
