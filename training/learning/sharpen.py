"""An averaged teacher that keeps the gaze in sight: targets cut anew at every step from the gaze map and its opinion.

What `relabel` does between two trainings, within one: log odds(target) = log odds(map) + gain * logit(teacher), cut at
each level's threshold. The teacher is the mean over past weights (Tarvainen and Valpola, NeurIPS 2017), and it sees the
pupil's own augmented image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..networks.ensemble import Ensemble, activation

FLOOR = 0.02  # of a map: a gaze map is never surer than this, either way
_BEGIN, _FULL = 0.2, 0.5  # shares of the steps between which the teacher's say rises from nothing to all of its gain


def gain_at(step: int, steps: int, gain: float) -> float:
    """What the teacher's logit counts at a step: 0 in the first fifth of a training, `gain` from its middle on."""
    return gain * min(1.0, max(0.0, (step / steps - _BEGIN) / (_FULL - _BEGIN)))


@torch.no_grad()
def teacher_logits(teacher: Ensemble, images: Tensor) -> Tensor:
    """Mean logit of the levels, float `(B, K, H, W)`, of images `(B, C, H, W)` in [0, 255]; leaves the teacher in eval mode."""
    teacher.eval()
    x = teacher.normalise(images).contiguous(memory_format=torch.channels_last)
    logits: Tensor = teacher(x)
    return logits.float().mean(dim=0)


def sharpened_targets(maps: Tensor, logits: Tensor, gain: float, thresholds: Sequence[float]) -> Tensor:
    """Labels uint8 `(m, B, H, W)` of gaze maps `(B, C, H, W)` in [0, 1] and a teacher's logits `(B, K, H, W)`.

    C = K = 1: foreground where the combined probability reaches a level's threshold. C = K - 1 > 1: the likeliest class
    1..C where that reaches it, else 0, as `pseudo_mask_levels` cuts maps.
    """
    maps = maps.float().clamp(FLOOR, 1 - FLOOR)
    if logits.shape[1] > 1:
        logits = activation(logits)[:, 1:].clamp(1e-6, 1 - 1e-6).logit()
    odds = maps.logit() + gain * logits
    best, which = odds.max(dim=1)
    levels = [math.log(t / (1 - t)) for t in thresholds]
    return torch.stack([torch.where(best >= level, which + 1, 0) for level in levels]).to(torch.uint8)
