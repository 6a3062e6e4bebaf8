"""Which images the gate looks at, and which a student learns from: never the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gazeseg_serve.contract import InputSpec, Run
from gazeseg_serve.dataset import Dataset, image_files
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.imaging import read_image
from gazeseg_serve.pixels import resize_image, unit_range, with_channels
from gazeseg_serve.progress import log, track
from gazeseg_serve.training.gaze.phantoms import phantom


@dataclass(frozen=True)
class GateImages:
    """names; images `(N, size, size, C)` of the InputSpec's dtype; truths, one an image: labels `(H, W)` uint8 at the mask's
    own size, or None.

    source: the words that say what the images are.
    """

    names: tuple[str, ...]
    images: np.ndarray
    truths: tuple[np.ndarray | None, ...]
    source: str


def gate_images(run: Run, data: Path | None, split: str, count: int) -> GateImages:
    """At most `count` of the run's `split` in the dataset folder `data`, with their masks; without data, phantoms.

    Raises ConfigError or DatasetError.
    """
    spec = run.input
    if count < 1:
        raise ConfigError("the gate needs at least one image")
    if data is None:
        log.warning("no --data given: the gate runs on synthetic images; pass --data DATASET to use your own")
        rng = np.random.default_rng(0)
        made = [with_channels(phantom(spec.size, rng)[0], spec.channels) for _ in range(count)]
        made = made if spec.dtype == "uint8" else [unit_range(pixels) for pixels in made]
        return GateImages(tuple(f"phantom {i}" for i in range(count)), np.stack(made), (None,) * count, "synthetic images")
    dataset = Dataset.open(data)
    known = tuple(stem for stem in run.splits.get(split) or () if stem in dataset.images)[:count]
    if not known:
        raise DatasetError(f"{data} holds none of the run's {split} images; pass the dataset the run was trained on")
    truths = tuple(
        dataset.mask_of(stem, dataset.image(stem), len(spec.classes)) if stem in dataset.masks else None for stem in known
    )
    return GateImages(known, stack([dataset.images[stem] for stem in known], spec), truths, f"images of split {split}")


def learning_images(run: Run, data: Path | None, unlabelled: Sequence[Path] = (), count: int | None = None) -> np.ndarray:
    """`(N, size, size, C)`: the run's training images in `data`, but for those that negatives.txt lists, then those of the
    folders `unlabelled`; `count` of them at most.

    An image of `unlabelled` whose pixels at that size are those of a validation or test image, whatever its name and
    file format, is left out, and said: the gate must not look at what a student learned from. Raises DatasetError where
    a folder holds no image.
    """
    parts, held_out = [], set()
    if data is not None:
        dataset = Dataset.open(data)
        of = {name: [dataset.images[stem] for stem in stems if stem in dataset.images] for name, stems in run.splits.items()}
        train = [path for path in of.pop("train", []) if path.stem not in dataset.negatives][:count]
        parts += [stack(train, run.input)] if train else []
        if unlabelled:
            held_out = {image.tobytes() for paths in of.values() if paths for image in stack(paths, run.input)}
    for folder in unlabelled:
        found = image_files(folder)[:count] if folder.is_dir() else []
        if not found:
            raise DatasetError(f"{folder} holds no image; name a folder of PNG, JPEG, TIFF or DICOM files")
        images = stack(found, run.input)
        kept = np.array([image.tobytes() not in held_out for image in images])
        if not kept.all():
            log.warning(
                "%d of %d images of %s are held out for validation or test and are left out",
                len(images) - kept.sum(),
                len(images),
                folder,
            )
        parts.append(images[kept])
    if not parts:
        raise DatasetError(
            "there is no image to learn from; pass --data DATASET, the one the run was trained on, or --unlabelled FOLDER"
        )
    return np.concatenate(parts)[:count]


def learned(run: Run, data: Path | None) -> Iterator[np.ndarray]:
    """`(size, size, C)`, one after the other: the run's training images that the dataset folder holds, the empty ones too."""
    dataset = None if data is None else Dataset.open(data)
    here = [] if dataset is None else [dataset.images[s] for s in run.splits.get("train") or () if s in dataset.images]
    return _read(here, run.input)


def learning_negatives(run: Run, data: Path | None) -> np.ndarray:
    """The run's training images that negatives.txt of the dataset folder lists, as `learning_images`. DatasetError where there
    is none."""
    dataset = None if data is None else Dataset.open(data)
    listed = [] if dataset is None else [stem for stem in run.splits.get("train") or () if stem in dataset.negatives]
    if dataset is None or not listed:
        raise DatasetError(
            "the student's negatives ask for images without a target: pass --data DATASET whose negatives.txt lists training "
            "images of the run, or set negatives = 0.0"
        )
    return stack([dataset.images[stem] for stem in listed], run.input)


def stack(paths: Sequence[Path], spec: InputSpec) -> np.ndarray:
    """The image files as `(N, size, size, C)` of the InputSpec's dtype. Raises ImageError."""
    return np.stack(list(_read(paths, spec)))


def _read(paths: Sequence[Path], spec: InputSpec) -> Iterator[np.ndarray]:
    for path in track(paths, "reading", len(paths)) if paths else ():
        yield resize_image(read_image(path, spec.channels, dtype=spec.dtype, window=spec.window), (spec.size, spec.size))
