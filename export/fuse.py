"""Strategy `fuse`: all m levels in one graph, exact. Images in, probability and disagreement out."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gazeseg_serve.training.networks.ensemble import Ensemble, Normalise, activation, disagreement
from gazeseg_serve.training.networks.unet import UNet


class FusedEnsemble(nn.Module):
    """`(B, H, W, C)` -> probability float `(B, K, H, W)` and, for m > 1, disagreement float `(B, H, W)`.

    probability is the activation of the mean logit; disagreement the population standard deviation over the levels of
    their probabilities, averaged over the classes.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.normalise = Normalise(ensemble.spec)
        self.levels = nn.ModuleList(fold_tail(level) for level in ensemble.networks)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = self.normalise(image.float().permute(0, 3, 1, 2))  # TensorRT wants bytes cast before anything else
        logits = torch.stack([level(x) for level in self.levels])
        probability = activation(logits.mean(dim=0))
        if len(self.levels) == 1:
            return (probability,)
        return probability, disagreement(activation(logits))


def fold_tail(level: UNet) -> UNet:
    """A copy that computes the same with its last two 1x1 convolutions, the backbone's and the classifier, as one.

    Both are linear with nothing between: C (A f + a) + c = (C A) f + (C a + c). Products are taken in float64.
    """
    copied = copy.deepcopy(level)
    inner, outer = copied.backbone.final_conv, copied.classifier
    assert isinstance(inner, nn.Conv2d), "a backbone ends in a convolution"
    assert inner.kernel_size == (1, 1), "a backbone ends in a 1x1 convolution"
    a, c = inner.weight.detach().double()[:, :, 0, 0], outer.weight.detach().double()[:, :, 0, 0]
    folded = nn.Conv2d(inner.in_channels, outer.out_channels, kernel_size=1)
    assert folded.bias is not None, "made with one"
    assert inner.bias is not None, "a backbone's last convolution has one"
    assert isinstance(outer, nn.Conv2d), "a level ends in a 1x1 convolution"
    assert outer.bias is not None, "made with one"
    with torch.no_grad():
        folded.weight.copy_((c @ a)[:, :, None, None])
        folded.bias.copy_(c @ inner.bias.double() + outer.bias.double())
    copied.backbone.final_conv = folded
    copied.classifier = nn.Identity()  # type: ignore[assignment] # UNet declares a convolution
    return copied.eval()
