"""How far the rims of two masks lie apart."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance

_HD_SIDE = 256  # HD95 is taken on masks whose longer side is this, and given in the image's own pixels


def hd95(prediction: np.ndarray, truth: np.ndarray) -> float:
    """95th percentile of the symmetric surface distance of two bool masks `(H, W)`, in pixels of the masks.

    Taken with MONAI on copies whose longer side is at most 256 pixels; NaN where one of the two is empty.
    """
    scale = max(1.0, max(truth.shape) / _HD_SIDE)
    height, width = (max(1, round(length / scale)) for length in truth.shape)
    small = [
        cv2.resize(m.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for m in (prediction, truth)
    ]
    if not small[0].any() or not small[1].any():
        return float("nan")
    a, b = (torch.from_numpy(m)[None, None] for m in small)
    with warnings.catch_warnings():
        # MONAI warns of its optional GPU package, and of an argument that it passes to itself.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", FutureWarning)
        return scale * float(compute_hausdorff_distance(a, b, include_background=True, percentile=95))
