"""The loss of the method: segmentation on each level's own pseudo-mask, and consistency between the levels.

Source: Zhong et al., MICCAI 2024, equations 1, 4 and 5. Logits are float `(m, B, K, H, W)`; K = 1 is one class by
sigmoid, K > 1 is softmax with background first. Targets are integer labels `(m, B, H, W)`, 0 background.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .ensemble import activation


def segmentation_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """sum_i (binary) cross-entropy of level i against pseudo-mask i, mean over batch and pixels."""
    if logits.shape[2] == 1:
        each = F.binary_cross_entropy_with_logits(logits[:, :, 0], targets.to(logits.dtype), reduction="none")
    else:
        each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1).long(), reduction="none").view(targets.shape)
    return each.mean(dim=(1, 2, 3)).sum()


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
