"""BoxInst: masks learned from boxes by their projections and by neighbouring colours (Tian et al., CVPR 2021).

L = L_projection + L_pairwise. There each object has a mask of its own; here one network marks all objects of an image, so
the projections are those of all its boxes together, the same thing for an image with one box.
"""

from __future__ import annotations

import torch
from kornia.color import rgb_to_lab
from torch import Tensor

from .edges import disagreement_loss, ends

SIMILAR = 0.3  # tau: edges of at least this colour similarity are said to have one label
_THETA = 2.0
_WARMUP = 1 / 9  # share of the steps over which the pairwise loss comes in: 10,000 of 90,000


def soft_dice_loss(p: Tensor, y: Tensor) -> Tensor:
    """float `(N,)`: 1 - 2 sum p y / (sum p^2 + sum y^2), over all but the first axis."""
    p, y = p.flatten(1), y.flatten(1)
    return 1 - 2 * (p * y).sum(1) / ((p * p).sum(1) + (y * y).sum(1) + 1e-5)


def projection_loss(p: Tensor, boxes: Tensor) -> Tensor:
    """float `(N,)` in [0, 2]: Dice losses between the greatest values of each row, and of each column, of p and boxes.

    p `(N, H, W)` in [0, 1]; boxes of the same shape, 1 inside (BoxInst, equation 2).
    """
    return soft_dice_loss(p.amax(dim=1), boxes.amax(dim=1)) + soft_dice_loss(p.amax(dim=2), boxes.amax(dim=2))


def alike(images: Tensor) -> list[Tensor]:
    """Which edges join like colours: exp(-|c_i - c_j| / theta) >= SIMILAR in CIE L*a*b* (BoxInst, equation 6).

    images: float RGB `(N, 3, H, W)` in [0, 1], or grey `(N, 1, H, W)`. Returns bool `(N, h, w)` a direction.
    """
    colours = rgb_to_lab(images.float().expand(-1, 3, -1, -1))
    return [torch.exp(-(a - b).norm(dim=1) / _THETA) >= SIMILAR for a, b in ends(colours)]


def warmed(progress: float) -> float:
    """Weight of what comes in over the first ninth of a training; progress is the share of its steps that are done."""
    return min(1.0, progress / _WARMUP)


def boxinst_parts(logits: Tensor, boxes: Tensor, images: Tensor, progress: float) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of the two losses: logits `(N, H, W)`, boxes bool of that shape, images as in `alike`."""
    projection = projection_loss(logits.sigmoid(), boxes.float()).mean()
    pairwise = disagreement_loss(logits, boxes, alike(images)).mean()
    return {"projection": (1.0, projection), "pairwise": (warmed(progress), pairwise)}
