"""DenseCRF refinement: the heatmap follows the edges of the image.

pydensecrf segfaults on some parameters and spreads one NaN over the whole map, so all is checked before the call.
It holds the GIL: run it in worker processes, not threads.
"""

from __future__ import annotations

import numpy as np

from gazeseg_serve.errors import DatasetError, require

from .settings import CrfSettings

_FLOOR = 1e-5  # of the unary probabilities


def refine(image: np.ndarray, heat: np.ndarray, settings: CrfSettings | None = None) -> np.ndarray:
    """Refine a heatmap with a two-label DenseCRF; returns Q(foreground), `(H, W)` float32 in [0, 1].

    image `(H, W, 3)` uint8 RGB (a grey image repeated to three channels); heat `(H, W)` float32 in [0, 1].
    The unary is -log of (1 - heat, heat) clipped at 1e-5; the only pairwise term is the bilateral one.
    Raises DatasetError where shapes, types or values are not these; MissingExtraError without pydensecrf.
    """
    settings = settings or CrfSettings()
    _check(image, heat)
    height, width = heat.shape
    field = require("pydensecrf.densecrf", "train").DenseCRF2D(width, height, 2)
    probability = np.clip(np.stack([1 - heat, heat]).astype(np.float32), _FLOOR, 1.0)
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(probability).reshape(2, -1)))
    writable = np.array(image, order="C")  # a read-only array is refused
    field.addPairwiseBilateral(sxy=settings.sxy, srgb=settings.srgb, rgbim=writable, compat=settings.compat)
    inferred = np.array(field.inference(settings.iterations), np.float32).reshape(2, height, width)[1]
    if not np.isfinite(inferred).all():
        raise DatasetError("the CRF's result is not finite; use a smaller compat")
    return np.clip(inferred, 0, 1)


def _check(image: np.ndarray, heat: np.ndarray) -> None:
    if heat.ndim != 2 or heat.size == 0 or not np.issubdtype(heat.dtype, np.floating):
        raise DatasetError(f"a heatmap is (H, W) of floats, not {heat.shape} {heat.dtype}")
    if image.shape != (*heat.shape, 3) or image.dtype != np.uint8:
        raise DatasetError(f"the image is {image.shape} {image.dtype}; the heatmap wants {(*heat.shape, 3)} uint8")
    if not np.isfinite(heat).all() or heat.min() < 0 or heat.max() > 1:
        raise DatasetError("a heatmap holds values that are not in [0, 1]")
