"""How good the gaze of one image is, with and without a true mask."""

from __future__ import annotations

import cv2
import numpy as np

from gazeseg_serve.metrics import class_dice, dice

from ..gaze.fixations import ScanPath

MEASURES = 2  # counted up when `measure` changes, so that finished images are measured again
_ENTROPY_SIDE = 64


def measure(
    scan: ScanPath, heat: np.ndarray, refined: np.ndarray | None, levels: np.ndarray, truth: np.ndarray | None
) -> dict[str, float]:
    """The quality of one image's gaze, by name.

    heat, refined   `(C, H, W)` float32 in [0, 1], one map a class; refined None without CRF
    levels          labels `(m, H, W)` uint8 of the pseudo-masks
    truth           labels `(H, W)` uint8, or None

    fixations, gaze_seconds; dispersion: root mean square distance of the fixations from their centroid, weighted by
    duration, and step: mean distance between one fixation and the next, both in image sides; wander: step over
    dispersion (independent random points: 1.25; a reader: 0.8); duration: of a fixation, median, ms; longest: the longest
    one's share of all; left, right, top, bottom: least and greatest x and y; entropy of the heatmap (0 a point, 1 flat);
    coverage: share of the image where it is >= 0.5; area_level_i: share of the image; nesting: pixels in every level over
    pixels in any; crf_agreement: Dice of heatmap and refined map, both >= 0.5. With truth: inside (share of fixations
    on the foreground), dice_heatmap, dice_refined (both >= 0.5) and dice_level_i, means over the classes.
    """
    classes = len(heat)
    row = {"fixations": float(len(scan)), "gaze_seconds": scan.gaze_ms / 1000, **_spread(scan)}
    row |= {"duration": float(np.median(scan.duration)), "longest": float(scan.duration.max() / scan.duration.sum())}
    row |= {"left": float(scan.x.min()), "right": float(scan.x.max())}
    row |= {"top": float(scan.y.min()), "bottom": float(scan.y.max())}
    row["entropy"] = float(np.mean([entropy(one) for one in heat if one.any()]))
    row["coverage"] = float((heat.max(axis=0) >= 0.5).mean())
    for i, labels in enumerate(levels, start=1):
        row[f"area_level_{i}"] = float((labels > 0).mean())
    union = np.count_nonzero(levels.any(axis=0))
    row["nesting"] = np.count_nonzero(levels.all(axis=0)) / union if union else 0.0
    if refined is not None:
        row["crf_agreement"] = dice(heat.max(axis=0) >= 0.5, refined.max(axis=0) >= 0.5)
    if truth is not None:
        row["inside"] = inside_share(scan, truth)
        row["dice_heatmap"] = _map_dice(heat, truth)
        if refined is not None:
            row["dice_refined"] = _map_dice(refined, truth)
        for i, labels in enumerate(levels, start=1):
            row[f"dice_level_{i}"] = float(np.mean(class_dice(labels, truth, classes)))
    return {name: round(float(value), 6) for name, value in row.items()}


def _spread(scan: ScanPath) -> dict[str, float]:
    weight = scan.duration / scan.duration.sum()
    x, y = float(weight @ scan.x), float(weight @ scan.y)
    dispersion = float(np.sqrt(weight @ ((scan.x - x) ** 2 + (scan.y - y) ** 2)))
    step = float(np.hypot(np.diff(scan.x), np.diff(scan.y)).mean()) if len(scan) > 1 else 0.0
    return {
        "centroid_x": x,
        "centroid_y": y,
        "dispersion": dispersion,
        "step": step,
        "wander": step / dispersion if dispersion > 0 else 0.0,
    }


def entropy(heat: np.ndarray) -> float:
    """Shannon entropy of a map `(H, W)` >= 0, not all 0, read as a distribution; 0 one point, 1 flat.

    Measured on 64 x 64 cells, so that images of different sizes compare.
    """
    cells = cv2.resize(heat, (_ENTROPY_SIDE, _ENTROPY_SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    share = cells[cells > 0] / cells.sum()
    return float(-(share * np.log(share)).sum() / np.log(cells.size))


def inside_share(scan: ScanPath, truth: np.ndarray) -> float:
    """The share of fixations that lie on the foreground of `truth` `(H, W)`, a class's fixations on that class."""
    height, width = truth.shape
    rows = np.minimum((scan.y * height).astype(np.int64), height - 1)
    columns = np.minimum((scan.x * width).astype(np.int64), width - 1)
    return float((truth[rows, columns] == scan.label).mean())


def _map_dice(maps: np.ndarray, truth: np.ndarray) -> float:
    from .levels import pseudo_mask_levels

    labels = pseudo_mask_levels(maps[0] if len(maps) == 1 else maps, (0.5,))[0]
    return float(np.mean(class_dice(labels, truth, len(maps))))
