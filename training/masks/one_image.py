"""One image of the `masks` command: its maps, its pseudo-masks and its quality, and the record that says so."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import DatasetError, ImageError
from gazeseg_serve.files import sha256_file, write_bytes, write_json
from gazeseg_serve.folders import json_of
from gazeseg_serve.png import encode_map, encode_png, read_map

from ..gaze.fixations import ScanPath
from .crf import refine
from .folder import HEATMAPS, PSEUDO_MASKS, RECORDS, REFINED, map_files, versions
from .heatmap import heatmap
from .levels import pseudo_mask_levels
from .quality import MEASURES, measure
from .settings import MaskSettings, settings_json

_STEPS = 65535  # of a stored map


@dataclass(frozen=True)
class ImageJob:
    """Everything one image needs, picklable; `data` holds this image alone.

    maps_key names what decides the maps, levels_key what decides the rest; a record with both is not redone, one
    with the first only keeps its maps.
    """

    data: Dataset
    stem: str
    scan: ScanPath
    classes: tuple[str, ...]
    settings: MaskSettings
    out: Path
    maps_key: str
    levels_key: str
    image_sha256: str

    @property
    def record(self) -> Path:
        return self.out / RECORDS / f"{self.stem}.json"


def plan(data: Dataset, stem: str, scan: ScanPath, classes: tuple[str, ...], settings: MaskSettings, out: Path) -> ImageJob:
    """Hash the inputs of one image. Raises OSError where the image or its mask cannot be read."""
    image, mask = data.images[stem], data.masks.get(stem)
    digest = sha256_file(image)
    table = np.stack([scan.x, scan.y, scan.duration, scan.label.astype(np.float64)])
    chosen = settings_json(settings)
    thresholds = chosen.pop("thresholds")
    maps_key = _digest(
        {
            "image": digest,
            "gaze": hashlib.sha256(table.tobytes()).hexdigest(),
            "classes": classes,
            "settings": chosen,
            "versions": versions(),
        }
    )
    levels_key = _digest({"thresholds": thresholds, "measures": MEASURES, "mask": sha256_file(mask) if mask else None})
    alone = Dataset(data.root, {stem: image}, {stem: mask} if mask else {})
    return ImageJob(alone, stem, scan, classes, settings, out, maps_key, levels_key, digest)


def finished(job: ImageJob) -> dict[str, Any] | None:
    """The record of this image, where it was made from the same inputs and all its files are there."""
    record = _read_record(job.record)
    if record.get("maps_key") != job.maps_key or record.get("levels_key") != job.levels_key:
        return None
    return record if _files_there(job, record, ()) else None


def make_image(job: ImageJob) -> dict[str, Any]:
    """Write the maps and pseudo-masks of one image, then its record; returns the record.

    The record of an image that cannot be used holds the reason under "skipped", and no file of it remains.
    """
    old = _read_record(job.record)
    record: dict[str, Any] = {
        "stem": job.stem,
        "maps_key": job.maps_key,
        "levels_key": job.levels_key,
        "image_sha256": job.image_sha256,
    }
    try:
        files = _make(job, old, record)
    except (DatasetError, ImageError) as error:
        files, record = {}, {"stem": job.stem, "skipped": str(error)}
    record["files"] = {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in sorted(files.items())}
    before = old.get("files", {})
    todo = [
        name
        for name, data in files.items()
        if record["files"][name] != before.get(name) or not _is_there(job.out / name, len(data))
    ]
    # First a record of what may be there from now on: whenever the process ends, no file is without one.
    write_json(job.record, {"stem": job.stem, "files": before | dict.fromkeys(todo, (0, ""))})
    for name in todo:
        write_bytes(job.out / name, files[name])
    for name in set(before) - set(files):
        (job.out / name).unlink(missing_ok=True)
    write_json(job.record, record)
    return record


def drop_image(out: Path, record: Path) -> None:
    """Remove the files of an image that has no gaze any more, and then their record."""
    for name in _read_record(record).get("files", {}):
        (out / name).unlink(missing_ok=True)
    record.unlink(missing_ok=True)


def _make(job: ImageJob, old: dict[str, Any], record: dict[str, Any]) -> dict[str, bytes]:
    """The bytes of every file of this image, by name; fills in the record."""
    settings, files = job.settings, {}
    if old.get("maps_key") == job.maps_key and _files_there(job, old, (HEATMAPS, REFINED)):
        size = tuple(old["size"])
        names = [name for name in old["files"] if not name.startswith(PSEUDO_MASKS)]
        files = {name: (job.out / name).read_bytes() for name in names}
        maps = {
            kind: np.stack([read_map(file) for file in map_files(job.out, kind, job.stem, job.classes)])
            for kind in _kinds(settings)
        }
    else:
        image = job.data.image(job.stem)
        size = image.shape[:2]
        maps = _maps(job, image)
        for kind, values in maps.items():
            for file, one in zip(map_files(job.out, kind, job.stem, job.classes), values, strict=True):
                files[file.relative_to(job.out).as_posix()] = encode_map(one)
    final = maps[_kinds(settings)[-1]]
    levels = pseudo_mask_levels(final[0] if len(final) == 1 else final, settings.thresholds)
    for i, labels in enumerate(levels, start=1):
        pixels = labels * np.uint8(255) if len(job.classes) == 1 else labels
        files[f"{PSEUDO_MASKS}/level_{i}/{job.stem}.png"] = encode_png(pixels)
    record["size"] = list(size)
    record["quality"] = measure(job.scan, maps[HEATMAPS], maps.get(REFINED), levels, _truth(job, size))
    return files


def _maps(job: ImageJob, image: np.ndarray) -> dict[str, np.ndarray]:
    """Heatmaps, and refined maps with CRF, `(C, H, W)` float32, rounded as they are stored."""
    size, sigma = image.shape[:2], job.settings.canvas_sigma(image.shape[:2])
    scans = [job.scan.of(label) for label in range(1, len(job.classes) + 1)]
    # A class that this image does not show has no gaze: its map is 0 everywhere.
    heat = [
        heatmap(scan.x, scan.y, scan.duration, size, sigma) if len(scan) or len(scans) == 1 else np.zeros(size, np.float32)
        for scan in scans
    ]
    maps = {HEATMAPS: np.stack(heat)}
    if job.settings.crf is not None:
        maps[REFINED] = np.stack([refine(image, one, job.settings.crf) if one.any() else one for one in heat])
    return {kind: np.rint(values * _STEPS).astype(np.float32) / _STEPS for kind, values in maps.items()}


def _truth(job: ImageJob, size: tuple[int, ...]) -> np.ndarray | None:
    if job.stem not in job.data.masks:
        return None
    truth = job.data.mask(job.stem, len(job.classes))
    if truth.shape != tuple(size):
        raise DatasetError(
            f"{job.data.masks[job.stem]} is {truth.shape[1]} x {truth.shape[0]} pixels, "
            f"its image {size[1]} x {size[0]}; give the mask the image's size"
        )
    return truth


def _kinds(settings: MaskSettings) -> tuple[str, ...]:
    return (HEATMAPS,) if settings.crf is None else (HEATMAPS, REFINED)


def _read_record(path: Path) -> dict[str, Any]:
    """The record in a file; empty where it is missing, damaged or names a file that is no map or mask."""
    record = json_of(path)
    files = record.get("files")
    kinds = (HEATMAPS, REFINED, PSEUDO_MASKS)
    if not isinstance(files, dict) or any(name.partition("/")[0] not in kinds or ".." in name.split("/") for name in files):
        return {}
    return record


def _files_there(job: ImageJob, record: dict[str, Any], kinds: tuple[str, ...]) -> bool:
    """Whether every file of the record (of these kinds, where some are named) is there with its size."""
    for name, (length, _) in record["files"].items():
        if kinds and name.partition("/")[0] not in kinds:
            continue
        if not _is_there(job.out / name, length):
            return False
    return True


def _is_there(path: Path, length: int) -> bool:
    return path.is_file() and path.stat().st_size == length


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
