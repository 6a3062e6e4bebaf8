"""Self-training that keeps the gaze in sight: a run's own opinion of its training images sharpens their gaze maps.

Where people looked and what a network makes of the image err for different reasons, so their log odds are added:

    log odds(map') = log odds(map) + gain * logit(network)

No true mask has a part in it. The new folder is one of gaze maps like the old, so `train` reads it as it is. The idea of
learning from one's own labels is Lee's (ICML workshop 2013); that of keeping the annotation's evidence in them is the
product of experts (Hinton, 2002).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gazeseg_serve.contract import RUN_FILE
from gazeseg_serve.csv_text import records_csv
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.files import sha256_file, write_bytes, write_json, write_text
from gazeseg_serve.folders import refuse_overlap, staged_folder
from gazeseg_serve.metrics import class_dice
from gazeseg_serve.pixels import log_odds, resize_image, resize_map
from gazeseg_serve.png import encode_map
from gazeseg_serve.progress import track

from ..masks.folder import (
    HEATMAPS,
    MASKS_FILE,
    MASKS_SCHEMA,
    QUALITY_FILE,
    RECORDS,
    REFINED,
    RELABELLED_FOLDER,
    check_map,
    load_map,
    load_masks_info,
    map_files,
    versions,
)
from ..masks.levels import pseudo_mask_levels
from ..masks.settings import settings_json
from ..networks.ensemble import Ensemble, activation, load_ensemble
from .sharpen import FLOOR

_FLIPS = ((), (2,), (3,), (2, 3))
_BATCH = 16


def relabel(run_folder: Path, dataset_folder: Path, masks: Path, out: Path, gain: float = 1 / 3) -> dict[str, float]:
    """Write `out`, a masks folder with the maps of the run's training images, sharpened by the run.

    masks   the folder of the gaze maps (the refined ones where it has them), as `gazeseg-serve masks` wrote it
    gain    how much the network's logit counts; 0 keeps the maps (but for their floor), 1 makes it an equal

    Returns, where there are true masks, the mean Dice of each level's pseudo-mask before ("before_level_1", ...) and after.
    Raises ConfigError, ContractError, DatasetError.
    """
    if not (math.isfinite(gain) and gain >= 0):
        raise ConfigError(f"gain {gain} is not a number of at least 0")
    refuse_overlap(out, run_folder, dataset_folder, masks)
    run, ensemble = load_ensemble(run_folder)
    dataset, info = Dataset.open(dataset_folder), load_masks_info(masks)
    if len(info.classes) != len(run.input.classes):
        raise ConfigError(f"{masks} has {len(info.classes)} class(es), {run_folder} knows {len(run.input.classes)}")
    here = (set(info.stems) & set(dataset.images)) - dataset.negatives  # which stay background whatever the run says
    stems = [stem for stem in run.splits["train"] if stem in here]
    if not stems:
        raise DatasetError(f"no training image of {run_folder} has a map in {masks} and an image in {dataset_folder}")
    kind = HEATMAPS if info.settings.crf is None else REFINED
    rows: list[dict[str, Any]] = []
    with staged_folder(out, RELABELLED_FOLDER) as folder:
        for stem, scores in track(_opinions(ensemble, dataset, stems), "relabelling", len(stems)):
            old = load_map(masks, stem, kind == REFINED)
            check_map(masks, stem, old, dataset.images[stem], scores.shape[-2:])
            new = combine(old if old.ndim == 3 else old[None], scores, gain)
            digest = sha256_file(dataset.images[stem])
            write_json(folder / RECORDS / f"{stem}.json", {"stem": stem, "image_sha256": digest})
            for file, values in zip(map_files(folder, kind, stem, info.classes), new, strict=True):
                write_bytes(file, encode_map(values))
            rows.append(
                {"image": stem}
                | _quality(dataset, stem, old, new if old.ndim == 3 else new[0], info.settings.thresholds, len(info.classes))
            )
        names = list(dict.fromkeys(name for row in rows for name in row if name != "image"))
        means = {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}
        write_text(folder / QUALITY_FILE, records_csv(rows, ["image", *names]))
        origin = {"run": sha256_file(run_folder / RUN_FILE), "masks": info.fingerprint, "gain": gain}
        fingerprint = hashlib.sha256(
            repr(
                [origin, [sha256_file(file) for stem in stems for file in map_files(folder, kind, stem, info.classes)]]
            ).encode()
        )
        write_json(
            folder / MASKS_FILE,
            dataclasses.asdict(info)
            | {
                "schema": MASKS_SCHEMA,
                "settings": settings_json(info.settings),
                "stems": stems,
                "skipped": {},
                "dropped": {},
                "fingerprint": fingerprint.hexdigest(),
                "versions": versions(),
                "quality": means,
                "relabelled": origin,
            },
        )
    return means


def combine(maps: np.ndarray, probability: np.ndarray, gain: float) -> np.ndarray:
    """Add the log odds of gaze maps and, times `gain`, of a network's probability; both float32 `(C, H, W)` in [0, 1]."""
    odds = [log_odds(one[None]) for one in np.clip(maps, FLOOR, 1 - FLOOR)]
    said = [log_odds(one[None]) for one in probability]
    total = np.concatenate(odds) + np.float32(gain) * np.concatenate(said)
    return np.asarray(1 / (1 + np.exp(-total)), np.float32)


@torch.no_grad()
def _opinions(ensemble: Ensemble, dataset: Dataset, stems: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Each stem with the foreground classes' probability `(C, H, W)` at the image's own size, mean logit over four flips."""
    spec = ensemble.spec
    for start in range(0, len(stems), _BATCH):
        part = stems[start : start + _BATCH]
        images = [dataset.image(stem, spec.channels, spec.dtype, spec.window) for stem in part]
        x = torch.from_numpy(np.stack([resize_image(image, (spec.size, spec.size)) for image in images]))
        x = ensemble.normalise(x.permute(0, 3, 1, 2).float())
        said = activation(torch.stack([_flipped(ensemble, x, axes) for axes in _FLIPS]).mean(dim=0))
        foreground = said if spec.outputs == 1 else said[:, 1:]
        for stem, image, values in zip(part, images, foreground.numpy(), strict=True):
            odds = [resize_map(log_odds(one[None])[0], image.shape[:2]) for one in values]
            yield stem, np.asarray(1 / (1 + np.exp(-np.stack(odds))), np.float32)


def _flipped(ensemble: Ensemble, x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The ensemble's logits `(B, K, H, W)` of the flipped images, flipped back."""
    return torch.flip(ensemble(torch.flip(x, axes)).mean(dim=0), axes)


def _quality(
    dataset: Dataset, stem: str, old: np.ndarray, new: np.ndarray, thresholds: Sequence[float], classes: int
) -> dict[str, float]:
    if stem not in dataset.masks:
        return {}
    truth = dataset.mask(stem, classes)
    row = {}
    for when, values in (("before", old), ("after", new)):
        for i, labels in enumerate(pseudo_mask_levels(values, thresholds), start=1):
            row[f"{when}_level_{i}"] = float(np.mean(class_dice(labels, truth, classes)))
    return row
