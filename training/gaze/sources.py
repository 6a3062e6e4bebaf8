"""Gaze from wherever it is: a fixation table, a folder with one table a class, or raw samples with their mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from gazeseg_serve.errors import DatasetError, ImageError
from gazeseg_serve.imaging import read_image

from .fixations import FixationTable, read_fixations
from .raw_samples import read_samples

SOURCES = ("fixations.csv", "fixations", "gaze.toml")
_TURNED = range(5, 9)  # EXIF orientations that swap width and height
_ORIENTATION = 0x0112


def find_gaze(root: Path) -> Path:
    """The gaze of a dataset folder: the first of `SOURCES` that is there, else DatasetError."""
    for name in SOURCES:
        if (root / name).exists():
            return root / name
    raise DatasetError(f"{root} has no gaze; put fixations.csv there, fixations/<CLASS>.csv, or gaze.toml for raw samples")


def read_gaze(path: Path, images: Mapping[str, Path], classes: Sequence[str] | None = None) -> FixationTable:
    """Read gaze for `images` (files by stem): a `.toml` mapping of raw samples, else a table or a folder of tables.

    Raises what `read_fixations` and `read_samples` raise.
    """
    if path.suffix == ".toml":
        # An image that cannot be read keeps its gaze here, and is skipped with that reason when it is needed.
        sizes = {stem: image_size(file) or (1, 1) for stem, file in images.items()}
        return read_samples(path, sizes, tuple(classes) if classes else None)
    return read_fixations(path, images, classes)


def image_size(path: Path) -> tuple[int, int] | None:
    """(height, width) of the upright image, from its header where that is enough; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (width, height) if image.getexif().get(_ORIENTATION) in _TURNED else (height, width)
    except UnidentifiedImageError:
        pass  # DICOM, or no image
    except OSError:
        return None
    try:
        height, width = read_image(path).shape[:2]
    except ImageError:
        return None
    return height, width
