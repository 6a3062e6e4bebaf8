"""The whole loss of a step, value and gradient of every weight, against one written from the equations."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from test_lpp import unfold_lpp
from torch import Tensor

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.training.learning.config import Loss
from gazeseg_serve.training.learning.loop import total_loss
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble


def by_hand(model: Ensemble, images: Tensor, targets: Tensor, consistency: str, weight: float) -> Tensor:
    """Zhong et al., eqs. 1, 4 and 5: level by level, class by class, with features that are unfolded and averaged."""
    x = (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True, correction=0)
    logits, pupils = [], []
    for level in model.networks:
        features = level.features(x)
        logits.append(level.classifier(features))
        near = unfold_lpp(features, features, "cosine", 5, 2) if consistency == "prop" else features
        pupils.append(level.classifier(near))

    def shares(z: Tensor) -> Tensor:
        """Probabilities of background and of each class: both of them for one class, too."""
        return torch.cat([1 - z.sigmoid(), z.sigmoid()], dim=1) if z.shape[1] == 1 else z.exp() / z.exp().sum(1, keepdim=True)

    loss = torch.zeros((), dtype=images.dtype)
    for z, target in zip(logits, targets, strict=True):
        wanted = F.one_hot(target.long(), shares(z).shape[1]).movedim(-1, 1)
        loss = loss - (wanted * shares(z).log()).sum(1).mean()
    for i, j in itertools.permutations(range(len(logits)), 2):
        agreement = (shares(pupils[i]) * shares(logits[j]).detach()).sum(1).mean()
        loss = loss - weight * agreement / (len(logits) - 1)
    return loss


@pytest.mark.parametrize("consistency", ["none", "pure", "prop"])
@pytest.mark.parametrize("m", [2, 3])
@pytest.mark.parametrize("classes", [1, 3])
def test_value_and_gradients_are_those_of_the_equations(consistency: str, m: int, classes: int) -> None:
    spec = InputSpec(16, 1, normalisation="zscore", classes=tuple(f"class {i}" for i in range(classes)))
    model = Ensemble(Architecture(4, "group", 1, spec.outputs), spec, range(m)).double()
    generator = torch.Generator().manual_seed(m)
    images = 255 * torch.rand(2, 1, 16, 16, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, classes + 1, (m, 2, 16, 16), generator=generator).to(torch.uint8)
    found, _ = total_loss(model, images, targets, Loss(consistency, weight=3.0), channels_last=False)
    wanted = by_hand(model, images, targets, consistency, 3.0 * (consistency != "none"))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0, check_dtype=False)  # logits are cut to float32
    weights = list(model.parameters())
    for a, b in zip(torch.autograd.grad(found, weights), torch.autograd.grad(wanted, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)
