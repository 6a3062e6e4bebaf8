"""Pairs of pixels that lie near each other, and the chance that a network gives both the same label.

An edge joins a pixel with one of its eight neighbours `dilation` pixels away (Tian et al., BoxInst, CVPR 2021, section
3.2). Each edge is taken once: in one of four directions, of which the other four are the mirror images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

DILATION = 2  # pixels
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))


def ends(x: Tensor, dilation: int = DILATION) -> list[tuple[Tensor, Tensor]]:
    """`(..., H, W)` -> for each direction the values at both ends of every edge inside the image, views of one shape."""
    height, width = x.shape[-2:]
    pairs = []
    for dy, dx in ((y * dilation, x * dilation) for y, x in _DIRECTIONS):
        left, right = slice(max(0, -dx), width - max(0, dx)), slice(max(0, dx), width + min(0, dx))
        pairs.append((x[..., : height - dy, left], x[..., dy:, right]))
    return pairs


def disagreement_loss(logits: Tensor, inside: Tensor, joined: Sequence[Tensor]) -> Tensor:
    """float `(N,)`: mean of -log P(both ends have one label) over the joined edges with an end inside, 0 where there is none.

    logits `(N, H, W)`, inside bool `(N, H, W)`, joined one bool `(N, h, w)` a direction, as `ends` orders them.
    P = p_i p_j + (1 - p_i)(1 - p_j), p = sigmoid(logit) (BoxInst, equation 4).
    """
    total, count = logits.new_zeros(len(logits)), logits.new_zeros(len(logits))
    on, off = F.logsigmoid(logits), F.logsigmoid(-logits)
    for (on_i, on_j), (off_i, off_j), (in_i, in_j), join in zip(ends(on), ends(off), ends(inside), joined, strict=True):
        counts = join & (in_i | in_j)
        total = total - (torch.logaddexp(on_i + on_j, off_i + off_j) * counts).sum(dim=(1, 2))
        count = count + counts.sum(dim=(1, 2))
    return total / count.clamp_min(1)
