"""Maps cut into levels: labels a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gazeseg_serve.pixels import resize_map

from .settings import check_thresholds

IGNORE = 255  # the target of a pixel that teaches nothing


def pseudo_mask_levels(values: np.ndarray, thresholds: Sequence[float], size: tuple[int, int] | None = None) -> np.ndarray:
    """Cut a map at each threshold: labels `(m, H, W)` uint8, in the order of `thresholds`.

    values      `(H, W)` float32 in [0, 1] -> 1 where value >= threshold, else 0
                `(C, H, W)`: one map a class -> the class 1..C with the highest map where that reaches the threshold,
                else 0; the first class wins a tie
    size        (height, width) to which the map is first resized, bilinearly; None keeps its own
    Raises ConfigError for thresholds outside (0, 1) or repeated.
    """
    levels = np.asarray(check_thresholds(thresholds), np.float32)[:, None, None]
    if size is not None:
        values = np.stack([resize_map(m, size) for m in values]) if values.ndim == 3 else resize_map(values, size)
    if values.ndim == 2:
        return (values >= levels).astype(np.uint8)
    best = (values.argmax(axis=0) + 1).astype(np.uint8)
    return np.where(values.max(axis=0) >= levels, best, np.uint8(0))
