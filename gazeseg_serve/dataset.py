"""The dataset folder: `images/`, `fixations.csv`, optional `masks/`, `splits/{train,val,test}.txt` and `negatives.txt`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .errors import DatasetError
from .imaging import IMAGE_SUFFIXES, read_image
from .progress import log

SPLIT_NAMES = ("train", "val", "test")
NEGATIVES_FILE = "negatives.txt"
VALIDATION_SHARE = 9  # one image in nine is held out: 100 of Kvasir-SEG's 900


@dataclass(frozen=True)
class Dataset:
    """The files of a dataset folder, by stem, in sorted order. Open one with `Dataset.open(folder)`.

    negatives: the stems that `negatives.txt` lists, images in which the reader found nothing: all of them is background,
    whatever gaze there is of them. unmatched: names of files in `masks/` that are no image's, and so are left aside.
    """

    root: Path
    images: Mapping[str, Path]
    masks: Mapping[str, Path]
    negatives: frozenset[str] = frozenset()
    unmatched: tuple[str, ...] = ()

    @classmethod
    def open(cls, root: Path | str) -> Dataset:
        """Raises DatasetError where `images/` is missing or empty, two files share a stem, or `negatives.txt` names an
        image that is not there, or one twice.
        """
        root = Path(root)
        if not (root / "images").is_dir():
            raise DatasetError(f"{root} has no images/ folder; put the images into {root / 'images'}")
        images = _by_stem(root / "images")
        if not images:
            raise DatasetError(f"{root / 'images'} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        masks = _by_stem(root / "masks") if (root / "masks").is_dir() else {}
        listed = root / NEGATIVES_FILE
        negatives = frozenset(_read_stems(listed, images)) if listed.is_file() else frozenset()
        unmatched = tuple(path.name for stem, path in masks.items() if stem not in images)
        return cls(root, images, {stem: path for stem, path in masks.items() if stem in images}, negatives, unmatched)

    def warn_of_unmatched(self) -> None:
        """Say that files in `masks/` are left aside, where there are some."""
        if self.unmatched:
            log.warning(
                "%d of %d file(s) in %s match no image and are left aside, %s for one; a mask has the name of its image",
                len(self.unmatched),
                len(self.unmatched) + len(self.masks),
                self.root / "masks",
                self.unmatched[0],
            )

    @property
    def fixations(self) -> Path:
        return self.root / "fixations.csv"

    def image(
        self, stem: str, channels: int = 3, dtype: str = "uint8", window: tuple[float, float] | None = None
    ) -> np.ndarray:
        """`(H, W, channels)`, uint8 or float32 in [0, 1], as `imaging.decode_image`."""
        return read_image(self.images[stem], channels, dtype=dtype, window=window)

    def mask(self, stem: str, classes: int = 1) -> np.ndarray:
        """Labels `(H, W)` uint8: 0 background, 1..classes, as grey or as a palette's index. With one class any non-zero is 1.

        A JPEG mask blurs at the rim, so there a value is foreground from 128 on. Raises DatasetError where the mask
        is missing, a label is above `classes`, or the mask is of several classes and JPEG.
        """
        if stem not in self.masks:
            raise DatasetError(f"{self.root} has no mask for {stem}; expected {self.root / 'masks' / (stem + '.png')}")
        path = self.masks[stem]
        lossy = path.suffix.lower() in (".jpg", ".jpeg")
        values = read_image(path, channels=1)[..., 0]  # with its limits
        if classes == 1:
            return (values >= 128 if lossy else values > 0).astype(np.uint8)
        if lossy:
            raise DatasetError(f"{path}: JPEG does not keep label values; save the mask as PNG")
        with Image.open(path) as picture:
            if picture.mode == "P":  # as this program writes them: the palette is for the eye, its index is the label
                values = np.asarray(picture)
        if values.max() > classes:
            raise DatasetError(f"{path}: label {values.max()}, but there are {classes} classes")
        return values

    def mask_of(self, stem: str, image: np.ndarray, classes: int = 1) -> np.ndarray:
        """The mask of an image `(H, W, ...)` that was read; as `mask`, and DatasetError where they differ in size."""
        found = self.mask(stem, classes)
        if found.shape != image.shape[:2]:
            raise DatasetError(
                f"{self.masks[stem]} is {found.shape[1]} x {found.shape[0]} pixels, its image {image.shape[1]} x "
                f"{image.shape[0]}; give the mask the image's size"
            )
        return found

    def splits(self, seed: int = 0) -> dict[str, tuple[str, ...]]:
        """Stems of `train`, `val` and, where the folder names one, `test`.

        What `splits/` does not say is made: without `val.txt` one training image in nine, drawn with `seed` from
        the sorted stems, becomes validation. Raises DatasetError for an unknown stem or an image in two splits.
        """
        named = {
            name: _read_stems(self.root / "splits" / f"{name}.txt", self.images)
            for name in SPLIT_NAMES
            if (self.root / "splits" / f"{name}.txt").is_file()
        }
        for i, first in enumerate(named):
            for second in list(named)[i + 1 :]:
                shared = sorted(set(named[first]) & set(named[second]))
                if shared:
                    raise DatasetError(
                        f"splits {first} and {second} share {len(shared)} image(s), {shared[0]} for one; "
                        "take them out of one of the two files"
                    )
        if "train" not in named:
            taken = {stem for stems in named.values() for stem in stems}
            named["train"] = tuple(stem for stem in self.images if stem not in taken)
        if "val" not in named:
            train, val = seeded_split(named["train"], seed)
            named |= {"train": train, "val": val}
        if not named["train"] or not named["val"]:
            raise DatasetError(f"{self.root}: too few images to hold out a validation split; at least 2 are needed")
        return {name: named[name] for name in SPLIT_NAMES if name in named}


def seeded_split(stems: Iterable[str], seed: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split sorted stems into (train, held out); one in nine, at least one where there are two, is held out."""
    ordered = sorted(stems)
    count = max(len(ordered) // VALIDATION_SHARE, int(len(ordered) > 1))
    chosen = set(np.random.default_rng(seed).permutation(len(ordered))[:count].tolist())
    train = tuple(stem for i, stem in enumerate(ordered) if i not in chosen)
    return train, tuple(stem for i, stem in enumerate(ordered) if i in chosen)


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name; hidden files are left out."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in found:
            raise DatasetError(f"{path} and {found[path.stem].name} share the name {path.stem}; rename one of them")
        found[path.stem] = path
    return dict(sorted(found.items()))


def _read_stems(path: Path, images: Mapping[str, Path]) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); save it as UTF-8 text, one stem a line") from error
    stems = [line.strip() for line in text.splitlines() if line.strip()]
    unknown = [stem for stem in stems if stem not in images]
    if unknown:
        raise DatasetError(
            f"{path} names {len(unknown)} image(s) that are not there, {unknown[0]} for one; write one stem (no suffix) a line"
        )
    if len(set(stems)) != len(stems):
        raise DatasetError(f"{path} names an image twice; keep one line an image")
    return tuple(sorted(stems))
