"""AGMM: the labelled pixels' features as centres of a mixture that teaches the others (Wu et al., CVPR 2023).

Of each image and each class k that is labelled in it: mu_k, the mean feature of its labelled pixels; d_k(x), the mean over
the channels of |f(x) - mu_k|; sigma_k^2 = sum_x P_k(x) d_k(x)^2 / sum_x P_k(x), P the network's probability;
G_k(x) = exp(-d_k(x)^2 / (2 sigma_k^2)). Then G has to be right where there is a label, P and G have to agree everywhere,
and the centres of different classes have to lie apart. The distance by mean absolute difference is that of the authors'
program; sigma, which adapts, is the paper's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...masks.levels import IGNORE

_TINY = 1e-6


def mixture(features: Tensor, p: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """G `(N, K, H, W)` in [0, 1]; the centres `(N, K, C)`; which classes are labelled, `(N, K)` bool.

    features `(N, C, H, W)`, p `(N, K, H, W)` probabilities, background first, labels `(N, H, W)` with IGNORE. G of a class
    that is not labelled in an image is 0 there.
    """
    classes = torch.arange(p.shape[1], device=labels.device).view(1, -1, 1, 1)
    of_class = (labels.unsqueeze(1) == classes).to(features.dtype)
    count = of_class.sum(dim=(2, 3))
    centres = torch.einsum("nchw,nkhw->nkc", features, of_class) / count.unsqueeze(2).clamp_min(1)
    distance = torch.stack([(features - c[:, :, None, None]).abs().mean(dim=1) for c in centres.unbind(dim=1)], dim=1)
    square = distance.square()
    variance = ((p * square).sum(dim=(2, 3)) / p.sum(dim=(2, 3)).clamp_min(_TINY)).detach().clamp_min(_TINY)
    known = count > 0
    return torch.exp(-square / (2 * variance[:, :, None, None])) * known[:, :, None, None], centres, known


def agmm_parts(logits: Tensor, labels: Tensor, features: Tensor) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of the three losses: logits `(N, K, H, W)`, K = 1 by sigmoid, labels `(N, H, W)` with IGNORE, and
    features `(N, C, h, w)`, which are enlarged to the labels' size.
    """
    features = F.interpolate(features.float(), size=labels.shape[1:], mode="bilinear")
    p = torch.cat([1 - logits.sigmoid(), logits.sigmoid()], dim=1) if logits.shape[1] == 1 else logits.softmax(dim=1)
    g, centres, known = mixture(features, p, labels)
    labelled = labels != IGNORE
    truth = F.one_hot(torch.where(labelled, labels, 0).long(), p.shape[1]).movedim(-1, 1).to(p.dtype)
    everywhere = torch.ones_like(labelled)
    return {
        "mixture_labelled": (1.0, _cross_entropy(truth, g, known, labelled)),
        "mixture_everywhere": (1.0, _cross_entropy(g, p, known, everywhere)),
        "mixture_apart": (1.0, _nearness(centres, known)),
    }


def _cross_entropy(wanted: Tensor, given: Tensor, known: Tensor, where: Tensor) -> Tensor:
    """Half the binary cross-entropy `(N, K, H, W)`, mean over an image's labelled classes and over the pixels `where`."""
    each = -(wanted * (given + _TINY).log() + (1 - wanted) * (1 - given + _TINY).log()) / 2
    pixels = (each * known[:, :, None, None]).sum(dim=1) / known.sum(dim=1).clamp_min(1)[:, None, None]
    return (pixels * where).sum() / where.sum().clamp_min(1)


def _nearness(centres: Tensor, known: Tensor) -> Tensor:
    """Mean of exp(-d^2) over the pairs of classes of the batch, d the mean absolute difference of their mean centres."""
    count = known.sum(dim=0)
    means = (centres * known.unsqueeze(2)).sum(dim=0) / count.clamp_min(1).unsqueeze(1)
    there = torch.nonzero(count > 0).flatten().tolist()
    pairs = [(means[i] - means[j]).abs().mean() for i in there for j in there if i < j]
    return torch.stack([torch.exp(-d.square()) for d in pairs]).mean() if pairs else centres.sum() * 0
