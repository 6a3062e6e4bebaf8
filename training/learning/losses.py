"""The loss of the method: segmentation on each level's own pseudo-mask, and consistency between the levels.

Source: Zhong et al., MICCAI 2024, equations 1, 4 and 5. Logits are float `(m, B, K, H, W)`; K = 1 is one class by
sigmoid, K > 1 is softmax with background first. Targets `(m, B, H, W)` are integer labels, 0 background; IGNORE (255)
teaches nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks.levels import IGNORE
from ..networks.ensemble import activation


def segmentation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """sum_i (binary) cross-entropy of level i against its targets, mean over batch and pixels.

    Ignored pixels weigh 0; a level without any other pixel adds 0.
    """
    valid = targets != IGNORE
    if logits.shape[2] == 1:
        wanted = torch.where(valid, targets, 0).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits[:, :, 0], wanted, reduction="none")
    else:
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1).long(), reduction="none", ignore_index=IGNORE).view(
            targets.shape
        )
    shares = valid.to(each.dtype)
    return ((each * shares).sum(dim=(1, 2, 3)) / shares.sum(dim=(1, 2, 3)).clamp_min(1e-6)).sum()


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """sum_i of 1 - soft Dice, mean over images and foreground classes; ignored pixels left out.

    Soft Dice is (2 sum p y + 1) / (sum p + sum y + 1) over an image's pixels (Milletari et al., 3DV 2016; with linear
    denominators, as usual since).
    """
    valid = (targets != IGNORE).unsqueeze(2)
    p = activation(logits)
    if logits.shape[2] == 1:
        y = torch.where(valid, targets.unsqueeze(2), 0).to(p.dtype)
    else:
        p = p[:, :, 1:]
        classes = torch.arange(1, logits.shape[2], device=targets.device).view(1, 1, -1, 1, 1)
        y = (targets.unsqueeze(2) == classes).to(p.dtype)
    p = p * valid
    dice = (2 * (p * y).sum(dim=(3, 4)) + 1) / (p.sum(dim=(3, 4)) + y.sum(dim=(3, 4)) + 1)
    return (1 - dice).mean(dim=(1, 2)).sum()


def consistency_loss(logits: Tensor, propagated: Tensor) -> Tensor:
    """sum_i - mean over j != i of < p~_i sg(p_j) + (1 - p~_i)(1 - sg(p_j)) >, in [-m, 0]; 0 for a single level.

    p = activation(logits) is the teacher, without gradient; p~ = activation(propagated) the pupil. Pass the logits
    themselves as `propagated` for the "pure" ablation. For K > 1 the bracket is the probability that two draws agree,
    sum_k p~_ik p_jk, of which the binary form is the K = 2 case.
    """
    m = len(logits)
    if m == 1:
        return propagated.new_zeros(())
    teacher, pupil = activation(logits).detach(), activation(propagated)
    # Linear in the teacher: the mean over j != i of p_j is (sum of all - p_i) / (m - 1).
    others = (teacher.sum(dim=0, keepdim=True) - teacher) / (m - 1)
    if logits.shape[2] == 1:
        agreement = pupil * others + (1 - pupil) * (1 - others)
    else:
        agreement = (pupil * others).sum(dim=2, keepdim=True)
    return -agreement.mean(dim=(1, 2, 3, 4)).sum()
