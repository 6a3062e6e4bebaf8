"""Images and crops in which there is nothing to find, and which teach just that: all background.

Two sources, both of gaze alone. `negatives.txt` of the dataset folder lists images in which the reader found nothing. And
a crop that nobody looked at holds nothing to find, since the reader was looking for it: such crops are cut out of the
training images at their full size, so that they are as sharp as an image is.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import DatasetError
from gazeseg_serve.files import sha256
from gazeseg_serve.pixels import resize_image
from gazeseg_serve.progress import log

from ..masks.folder import load_map, load_masks_info
from .data import Packed, batch_indices, to_tensors, unit_images

CROPS = 2  # of each training image, drawn once
SIDES = (0.35, 0.7)  # of a crop, as shares of the image's; log-uniform
LOOKED_AT = 0.1  # of a heatmap, whose highest value is 1: from here on a pixel counts as looked at
_TRIES = 40


@dataclass(frozen=True)
class Empty:
    """names; images `(N, H, W, C)` at the network's size, of the InputSpec's dtype. The first `whole` are of negatives.txt,
    the rest are crops."""

    names: tuple[str, ...]
    images: np.ndarray
    whole: int

    def __len__(self) -> int:
        return len(self.names)

    def fingerprint(self) -> str:
        return sha256(np.ascontiguousarray(self.images).tobytes())


def pack_negatives(
    dataset: Dataset, stems: Sequence[str], spec: InputSpec, masks: Path | None, thresholds: Sequence[float], seed: int
) -> Empty:
    """The negatives among `stems`, and up to CROPS crops of each other image that hold neither gaze nor pseudo-mask.

    masks: the folder of the gaze maps; without one (other supervision) there are no crops. Raises DatasetError where there
    is nothing.
    """
    size = (spec.size, spec.size)
    listed = [stem for stem in stems if stem in dataset.negatives]
    looked = [] if masks is None else [stem for stem in stems if stem not in dataset.negatives]

    def whole(stem: str) -> np.ndarray:
        return resize_image(dataset.image(stem, spec.channels, spec.dtype, spec.window), size)

    def crops(stem: str) -> list[np.ndarray]:
        assert masks is not None, "there are none to cut otherwise"
        taken = looked_at(masks, stem, thresholds)
        if taken is None:
            return []
        rng = np.random.default_rng((seed, *stem.encode()))
        boxes = [box for box in (empty_box(taken, rng) for _ in range(CROPS)) if box is not None]
        image = dataset.image(stem, spec.channels, spec.dtype, spec.window) if boxes else None
        return [] if image is None else [resize_image(image[box], size) for box in boxes]

    with ThreadPoolExecutor(2) as pool:
        names, images = list(listed), list(pool.map(whole, listed))
        for stem, parts in zip(looked, pool.map(crops, looked), strict=True):
            names += [f"{stem} crop {i}" for i in range(len(parts))]
            images += parts
    if not images:
        raise DatasetError(
            f"{dataset.root} has no negatives to learn from: no training image in negatives.txt, and no crop without gaze; "
            "list some, or set data.negatives = 0.0"
        )
    log.info("negatives: %d whole images, %d crops that nobody looked at", len(listed), len(names) - len(listed))
    return Empty(tuple(names), np.stack(images), len(listed))


def looked_at(masks: Path, stem: str, thresholds: Sequence[float]) -> np.ndarray | None:
    """bool `(H, W)`: where there is gaze of any class, or any level's pseudo-mask; None for an image without maps."""
    kinds = (False,) if load_masks_info(masks).settings.crf is None else (False, True)
    try:
        maps = [load_map(masks, stem, refined) for refined in kinds]
    except FileNotFoundError:
        return None
    heat, final = (one if one.ndim == 2 else one.max(axis=0) for one in (maps[0], maps[-1]))
    return np.asarray((heat >= LOOKED_AT) | (final >= min(thresholds)))


def empty_box(taken: np.ndarray, rng: np.random.Generator) -> tuple[slice, slice] | None:
    """A random box of `taken` `(H, W)` bool that holds no true pixel, as rows and columns; None where none was met.

    Both its sides are the same share, within SIDES, of the image's, so it keeps the image's shape.
    """
    height, width = taken.shape
    below = np.pad(taken.astype(np.int64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))  # true pixels above and left
    low, high = np.log(SIDES)
    for share in np.exp(rng.uniform(low, high, _TRIES)):
        h, w = max(1, round(share * height)), max(1, round(share * width))
        top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
        if below[top + h, left + w] - below[top, left + w] - below[top + h, left] + below[top, left] == 0:
            return slice(top, top + h), slice(left, left + w)
    return None


def empty_indices(step: int, empty: Empty, count: int, seed: int) -> np.ndarray:
    """Which `count` of the negatives step `step` takes: int64 `(count,)`, a function of the arguments alone.

    Where there are both kinds each place is as likely of either, so that a few whole images are not lost among many crops.
    """
    rng = np.random.default_rng((seed, step, 1))
    crops = len(empty) - empty.whole
    if not crops or not empty.whole:
        return rng.integers(len(empty), size=count)
    whole = rng.random(count) < 0.5
    return np.where(whole, rng.integers(empty.whole, size=count), empty.whole + rng.integers(crops, size=count))


def draw(
    data: Packed, empty: Empty | None, step: int, batch: int, share: float, seed: int
) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """The batch of a step, of which a `share` in [0, 1) are negatives, the last ones.

    Returns float images `(batch, C, H, W)` in [0, 1]; targets `(batch, m, H, W)` as packed, all 0 of the negatives; which
    are negatives, bool `(batch,)`; and the names.
    """
    count = 0 if empty is None else min(batch - 1, round(share * batch))
    indices = batch_indices(step, len(data), batch - count, seed)
    images, targets = to_tensors(data, indices)
    names = [data.stems[i] for i in indices]
    if empty is not None and count:
        chosen = empty_indices(step, empty, count, seed)
        images = torch.cat([images, unit_images(empty.images[chosen])])
        targets = torch.cat([targets, targets.new_zeros((count, *targets.shape[1:]))])
        names += [empty.names[i] for i in chosen]
    return images, targets, torch.arange(batch) >= batch - count, names
