"""Weak annotations other than gaze, simulated from true masks, so that annotation schemes can be compared on one page.

What an annotator would draw is made by a fixed rule from the mask at the network's size; there is no chance in it. The
pixels that nobody annotated are IGNORE, and the segmentation loss leaves them out (partial cross-entropy).

    full        the mask itself
    box         the tight box of every connected region, filled with its class; a smaller box lies on top of a larger
                one, and outside all boxes is background (the "box" baseline of Khoreva et al., CVPR 2017)
    point       the pixel of each class, and of the background, that is farthest from the rim of its region (the click
                of Sofiiuk et al., ICIP 2022), and its 8 neighbours of the same label
    scribble    the skeleton of each class and of the background (Luo et al., MICCAI 2022; thinning: Zhang and Suen,
                CACM 1984). Real ones are taken instead where the dataset folder has scribbles/<stem>.png.

The losses that were made for boxes and points alone (projection, pairwise affinity, mean teachers) are not here: this
compares annotations under one training, and the figures of methods built for one of them are higher.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.ndimage import label as connected
from skimage.morphology import skeletonize

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import DatasetError
from gazeseg_serve.imaging import read_image

from ..masks.levels import IGNORE


def annotate(mask: np.ndarray, scheme: str) -> np.ndarray:
    """Labels `(H, W)` uint8 (0 background, 1.. classes) -> what an annotator gives of them, with IGNORE elsewhere."""
    if scheme == "full":
        return mask
    if scheme == "box":
        return _boxes(mask)
    labels = np.full_like(mask, IGNORE)
    for label in np.unique(mask):
        region = mask == label
        labels[_point(region) if scheme == "point" else skeletonize(region)] = label
    return labels


def real_scribble(dataset: Dataset, stem: str, classes: int) -> np.ndarray | None:
    """The dataset folder's own scribble of an image: uint8 labels `(H, W)`, any value above `classes` becomes IGNORE.

    None where there is none. Raises DatasetError where it does not have the mask's size.
    """
    path = dataset.root / "scribbles" / f"{stem}.png"
    if not path.is_file():
        return None
    labels = read_image(path, channels=1)[..., 0]
    wanted = dataset.image(stem, 1).shape[:2]
    if labels.shape != wanted:
        raise DatasetError(f"{path} is {labels.shape}, its image {wanted} (height, width); give it the image's size")
    return np.where(labels > classes, np.uint8(IGNORE), labels)


def _boxes(mask: np.ndarray) -> np.ndarray:
    found = []
    for label in range(1, int(mask.max()) + 1):
        regions, _ = connected(mask == label, np.ones((3, 3)))
        for rows, columns in find_objects(regions):
            found.append(((rows.stop - rows.start) * (columns.stop - columns.start), label, rows, columns))
    labels = np.zeros_like(mask)
    for _, label, rows, columns in sorted(found, key=lambda box: -box[0]):
        labels[rows, columns] = label
    return labels


def _point(region: np.ndarray) -> np.ndarray:
    """bool: the deepest pixel of a region and its neighbours inside; what lies beyond the image is not the region."""
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    point = np.zeros(region.shape, np.uint8)
    point[np.unravel_index(depth.argmax(), depth.shape)] = 1
    return region & (cv2.dilate(point, np.ones((3, 3), np.uint8)) > 0)
