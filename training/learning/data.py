"""What training reads, packed once into memory at the network's size."""

from __future__ import annotations

import hashlib
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
from gazeseg_serve.pixels import resize_image, resize_labels, resize_map
from gazeseg_serve.progress import log

from ..masks.folder import check_map, load_map, load_masks_info
from ..masks.levels import pseudo_mask_levels
from .annotations import annotate, real_scribble


@dataclass(frozen=True)
class Packed:
    """stems; images `(N, H, W, C)`; targets `(N, m, H, W)`; both at the network's size.

    images are uint8, or float32 in [0, 1], as the InputSpec says; targets uint8 labels, of which 255 teaches nothing. Where a
    teacher cuts the targets in training they are gaze maps, float16 in [0, 1], one a class in place of one a level.
    """

    stems: tuple[str, ...]
    images: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.stems)

    def fingerprints(self) -> dict[str, str]:
        return {
            name: hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            for name, array in (("images", self.images), ("pseudo_masks", self.targets))
        }


def _map_of(folder: Path, stem: str, refined: bool, pooled: np.ndarray) -> np.ndarray:
    """A reader's map of an image, or the pooled one where that reader did not see it."""
    try:
        own = load_map(folder, stem, refined)
    except FileNotFoundError:
        return pooled
    if own.shape != pooled.shape:
        raise DatasetError(f"{folder} has a map of {stem} in another size than {pooled.shape}; make both of the same images")
    return own


def _check_classes(masks: Path, spec: InputSpec) -> None:
    made = tuple(load_masks_info(masks).classes)
    if len(made) != len(spec.classes) or (len(made) > 1 and made != spec.classes):  # one class needs no name to be found
        raise DatasetError(
            f"{masks} holds maps of the classes {', '.join(made)}, the config names {', '.join(spec.classes)}; "
            "names and order are the labels' own: set data.classes, or make the masks with --classes"
        )


def pack_gaze(
    dataset: Dataset,
    stems: Sequence[str],
    masks: Path,
    spec: InputSpec,
    thresholds: Sequence[float],
    refined: bool,
    whole: bool = False,
    readers: Sequence[str] = (),
) -> Packed:
    """Images with the pseudo-masks cut from the maps in the folder `masks`; an image without a map is left out, and said.

    readers: level i is cut from the masks folder of that name beside `masks`, where it has a map of the image, else from
    `masks`. whole: the targets are the maps themselves, uncut, float16 `(N, C, H, W)`, one a class. Raises DatasetError where
    no image has a map, or a map was made of another image.
    """

    def one(stem: str) -> tuple[str, np.ndarray, np.ndarray] | None:
        try:
            gaze_map = load_map(masks, stem, refined)
        except FileNotFoundError:
            return None
        size, image = (spec.size, spec.size), dataset.image(stem, spec.channels, spec.dtype, spec.window)
        check_map(masks, stem, gaze_map, dataset.images[stem], image.shape[:2])
        if whole:
            maps = gaze_map if gaze_map.ndim == 3 else gaze_map[None]
            targets = np.stack([resize_map(one, size) for one in maps]).astype(np.float16)
        elif readers:
            own = [_map_of(masks.parent / name, stem, refined, gaze_map) for name in readers]
            targets = np.concatenate([pseudo_mask_levels(m, (t,), size) for m, t in zip(own, thresholds, strict=True)])
        else:
            targets = pseudo_mask_levels(gaze_map, thresholds, size)
        return stem, resize_image(image, size), targets

    for folder in (masks, *(masks.parent / name for name in readers)):
        _check_classes(folder, spec)
    with ThreadPoolExecutor(2) as pool:
        found = [item for item in pool.map(one, stems) if item is not None]
    if not found:
        raise DatasetError(
            f"{masks} holds no {'refined map' if refined else 'heatmap'} for these images; "
            f"make them with: gazeseg-serve masks {dataset.root} --out {masks}"
        )
    if len(found) < len(stems):
        log.warning("%d of %d images have no gaze map and are left out", len(stems) - len(found), len(stems))
    names, images, targets = zip(*found, strict=True)
    return Packed(names, np.stack(images), np.stack(targets))


def pack_annotated(dataset: Dataset, stems: Sequence[str], spec: InputSpec, levels: int, scheme: str) -> Packed:
    """Images with what `annotations.annotate` makes of their true masks, the same for each of `levels`.

    Real scribbles of the dataset folder come first. Raises DatasetError where no image has a mask or a scribble.
    """
    size, real = (spec.size, spec.size), 0
    names, images, targets = [], [], []
    for stem in stems:
        scribble = real_scribble(dataset, stem, len(spec.classes)) if scheme == "scribble" else None
        if scribble is None and stem not in dataset.masks:
            continue
        image = dataset.image(stem, spec.channels, spec.dtype, spec.window)
        if scribble is None:
            labels = annotate(resize_labels(dataset.mask_of(stem, image, len(spec.classes)), size), scheme)
        else:
            labels, real = resize_labels(scribble, size), real + 1
        names.append(stem)
        images.append(resize_image(image, size))
        targets.append(np.broadcast_to(labels, (levels, *size)))
    if not names:
        raise DatasetError(f'{dataset.root} has no masks/ to take {scheme!r} supervision from; set data.supervision = "gaze"')
    if len(names) < len(stems):
        log.warning("%d of %d images have no mask and are left out", len(stems) - len(names), len(stems))
    if scheme == "scribble":
        log.info("scribbles: %d of the dataset's own, %d skeletons of masks", real, len(names) - real)
    return Packed(tuple(names), np.stack(images), np.stack(targets))


def pack_truth(dataset: Dataset, stems: Sequence[str], spec: InputSpec) -> Packed:
    """Images with their true masks, for validation; images without a mask are left out."""
    kept = tuple(stem for stem in stems if stem in dataset.masks)
    size = (spec.size, spec.size)
    images, masks = [], []
    for stem in kept:
        image = dataset.image(stem, spec.channels, spec.dtype, spec.window)
        images.append(resize_image(image, size))
        masks.append(resize_labels(dataset.mask_of(stem, image, len(spec.classes)), size))
    return Packed(
        kept, np.array(images, spec.dtype).reshape(-1, *size, spec.channels), np.array(masks, np.uint8).reshape(-1, 1, *size)
    )


def pack_images(dataset: Dataset, stems: Sequence[str], spec: InputSpec) -> np.ndarray:
    """The images alone, `(N, H, W, C)` at the network's size, of the InputSpec's dtype."""
    size = (spec.size, spec.size)
    images = [resize_image(dataset.image(stem, spec.channels, spec.dtype, spec.window), size) for stem in stems]
    return np.array(images, spec.dtype).reshape(-1, *size, spec.channels)


def batch_indices(step: int, count: int, batch: int, seed: int) -> np.ndarray:
    """Which of `count` images step `step` takes: int64 `(batch,)`, a function of the arguments alone.

    The images come in a new seeded order each epoch and none is left out; a batch may span two epochs. So a resumed
    training needs no state of the sampler.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs, within = np.divmod(positions, count)
    orders = {int(e): np.random.default_rng((seed, int(e))).permutation(count) for e in np.unique(epochs)}
    return np.array([orders[int(e)][i] for e, i in zip(epochs, within, strict=True)])


def to_tensors(packed: Packed, indices: np.ndarray) -> tuple[Tensor, Tensor]:
    """float images `(B, C, H, W)` in [0, 1] and targets `(B, m, H, W)` as packed."""
    return unit_images(packed.images[indices]), torch.from_numpy(packed.targets[indices])


def unit_images(images: np.ndarray) -> Tensor:
    """`(B, H, W, C)`, uint8 or float32 in [0, 1] -> float `(B, C, H, W)` in [0, 1], which is what augmentation works on."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    return pixels if pixels.is_floating_point() else pixels.float() / 255
