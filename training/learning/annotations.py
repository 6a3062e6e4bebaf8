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
    extreme     the top, bottom, left and right pixel of every connected region (Papadopoulos et al., ICCV 2017), each with
                its neighbours of the same label; they tell its box, too, and outside all boxes is background
    box_points  the tight box of every connected region, and the mask's own label at ten pixels drawn uniformly in it
                (PointSup: Cheng et al., CVPR 2022); outside all boxes is background. The draw depends on the box alone.

The losses that were made for one of them (BoxInst, BoxTeacher, PointSup, AGMM) are in `rivals`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt, find_objects
from scipy.ndimage import label as connected
from skimage.morphology import skeletonize

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import DatasetError
from gazeseg_serve.imaging import read_image

from ..masks.levels import IGNORE

POINTS = 10  # in the box of each region, of "box_points"


def annotate(mask: np.ndarray, scheme: str) -> np.ndarray:
    """Labels `(H, W)` uint8 (0 background, 1.. classes) -> what an annotator gives of them, with IGNORE elsewhere."""
    if scheme == "full":
        return mask
    if scheme == "box":
        return _boxes(mask)
    if scheme == "box_points":
        return _labelled_in_boxes(mask, _random_points)
    if scheme == "extreme":
        return _labelled_in_boxes(mask, _extreme_points)
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


def _regions(mask: np.ndarray) -> Iterator[tuple[int, np.ndarray, slice, slice]]:
    """Every connected region: its label, bool `(H, W)`, and the rows and columns of its tight box."""
    for label in range(1, int(mask.max()) + 1):
        numbers, _ = connected(mask == label, np.ones((3, 3)))
        for number, (rows, columns) in enumerate(find_objects(numbers), start=1):
            yield label, numbers == number, rows, columns


def _boxes(mask: np.ndarray) -> np.ndarray:
    found = []
    for label, _, rows, columns in _regions(mask):
        found.append(((rows.stop - rows.start) * (columns.stop - columns.start), label, rows, columns))
    labels = np.zeros_like(mask)
    for _, label, rows, columns in sorted(found, key=lambda box: -box[0]):
        labels[rows, columns] = label
    return labels


def _labelled_in_boxes(mask: np.ndarray, points: Callable[[np.ndarray, slice, slice], np.ndarray]) -> np.ndarray:
    """The mask's own labels at `points` of every region, IGNORE elsewhere in the boxes, background outside them."""
    labels, known = np.zeros_like(mask), np.zeros(mask.shape, bool)
    for _, region, rows, columns in _regions(mask):
        labels[rows, columns] = IGNORE
        known |= points(region, rows, columns)
    return np.where(known, mask, labels)


def _random_points(region: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    rng = np.random.default_rng((rows.start, rows.stop, columns.start, columns.stop))
    drawn = np.zeros(region.shape, bool)
    drawn[rng.integers(rows.start, rows.stop, POINTS), rng.integers(columns.start, columns.stop, POINTS)] = True
    return drawn


def _extreme_points(region: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    clicks = np.zeros(region.shape, np.uint8)
    for row in (rows.start, rows.stop - 1):
        clicks[row, int(np.median(np.flatnonzero(region[row])))] = 1
    for column in (columns.start, columns.stop - 1):
        clicks[int(np.median(np.flatnonzero(region[:, column]))), column] = 1
    return region & (cv2.dilate(clicks, np.ones((3, 3), np.uint8)) > 0)


def _point(region: np.ndarray) -> np.ndarray:
    """bool: the deepest pixel of a region and its neighbours inside; what lies beyond the image is not the region."""
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    point = np.zeros(region.shape, np.uint8)
    point[np.unravel_index(depth.argmax(), depth.shape)] = 1
    return region & (cv2.dilate(point, np.ones((3, 3), np.uint8)) > 0)
