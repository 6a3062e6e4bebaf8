"""PointSup: a few labelled points in each box, and nothing else of its inside (Cheng et al., CVPR 2022).

There the mask of an object is predicted in its box alone, and the cross-entropy is the mean over the points. Here one network
marks the whole image, so the background outside all boxes is taught, too, with a mean of its own: in one mean with some
thousand pixels of background ten points would count for nothing.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...masks.levels import IGNORE

_CLOSING = 5  # pixels: a gap of points that lie side by side is closed, too


def boxes_of(labels: Tensor) -> Tensor:
    """bool `(N, H, W)`: the boxes of labels "box_points", whose inside is IGNORE but for the points: its closing."""
    around = _CLOSING - 1  # beyond the image no box goes on
    unknown = F.pad((labels == IGNORE).float().unsqueeze(1), (around,) * 4)
    closed: Tensor = -F.max_pool2d(-F.max_pool2d(unknown, _CLOSING, stride=1), _CLOSING, stride=1)
    return closed.squeeze(1) > 0.5


def pointsup_parts(logits: Tensor, labels: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of the two losses: logits `(N, H, W)`, labels `(N, H, W)` with IGNORE. A part without pixels is 0."""
    boxes, known = boxes_of(labels), labels != IGNORE
    each = F.binary_cross_entropy_with_logits(logits, (labels == 1).to(logits.dtype), reduction="none")
    means = [(each * where).sum() / where.sum().clamp_min(1) for where in (boxes & known, ~boxes & known)]
    return {"points": (1.0, means[0]), "outside": (1.0, means[1])}
