"""BoxTeacher: BoxInst, and pseudo-masks of an averaged teacher, weighed by how sure it is (Cheng et al., CVPR 2023).

The teacher is the mean over the pupil's past weights. Its mask of an image counts only where it spans the boxes, and with
a weight; the pupil learns its pixels by a Dice loss and its neighbourhoods by an affinity loss. There a detector's score
of each object is a second factor of that weight; here is no detector, and the score of the mask alone counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .boxinst import boxinst_parts, soft_dice_loss, warmed
from .edges import disagreement_loss, ends

SURE = 0.5  # of a pixel, from where on the teacher marks it
SPANS = 0.5  # least intersection over union of the boxes around the teacher's mask and around the annotated ones
JOINED = 0.5  # from this affinity on an edge is said to have one label
PIXEL_WEIGHT, AFFINITY_WEIGHT = 0.5, 0.1


def pseudo_masks(p: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's masks, float 0 or 1 `(N, H, W)`, and their weights `(N,)` in [0, 1], 0 where a mask does not span.

    p: the teacher's probability `(N, H, W)`; boxes bool of the same shape. The weight is the square root of the mean
    probability of what is marked (BoxTeacher, equation 1, with a detector's score of 1).
    """
    marked = (p > SURE) & boxes
    score = ((p * marked).sum(dim=(1, 2)) / marked.sum(dim=(1, 2)).clamp_min(1)).sqrt()
    return marked.float(), torch.where(_span_overlap(marked, boxes) >= SPANS, score, 0)


def _span_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union `(N,)` of the upright boxes about the true pixels of a and b, b's holding a's."""
    spans = [_extent(one.any(dim=2)) * _extent(one.any(dim=1)) for one in (a, b)]
    return spans[0] / spans[1].clamp_min(1)


def _extent(line: Tensor) -> Tensor:
    """bool `(N, L)` -> from the first true position to the last, both counted; 0 where there is none."""
    place = torch.arange(line.shape[1], device=line.device)
    last = torch.where(line, place, -1).amax(dim=1)
    first = torch.where(line, place, line.shape[1]).amin(dim=1)
    return (last - first + 1).clamp_min(0).float()


def affine(masks: Tensor) -> list[Tensor]:
    """Which edges a pseudo-mask `(N, H, W)` in [0, 1] joins, bool `(N, h, w)` a direction.

    Those where b_i b_j + (1 - b_i)(1 - b_j) >= JOINED; b is half the mask and half its mean over 3 x 3 pixels, which takes
    noise out of it.
    """
    b = (masks + F.avg_pool2d(masks.unsqueeze(1), 3, stride=1, padding=1).squeeze(1)) / 2
    return [i * j + (1 - i) * (1 - j) >= JOINED for i, j in ends(b)]


def boxteacher_parts(
    logits: Tensor, boxes: Tensor, images: Tensor, progress: float, teacher: Tensor
) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of BoxInst's losses and of the teacher's two; teacher: its probability `(N, H, W)`, without gradient."""
    masks, weights = pseudo_masks(teacher, boxes)
    taught = (weights > 0).sum().clamp_min(1)
    pixel = (weights * soft_dice_loss(logits.sigmoid(), masks)).sum() / taught
    affinity = (weights * disagreement_loss(logits, boxes, affine(masks))).sum() / taught
    return boxinst_parts(logits, boxes, images, progress) | {
        "pseudo_mask": (PIXEL_WEIGHT * warmed(progress), pixel),
        "affinity": (AFFINITY_WEIGHT * warmed(progress), affinity),
    }
