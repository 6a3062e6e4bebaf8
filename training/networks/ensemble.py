"""The m peer networks and the normalisation in front of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from gazeseg_serve.contract import IMAGENET_MEAN, IMAGENET_STD, InputSpec, Run
from gazeseg_serve.errors import ContractError
from gazeseg_serve.records import from_dict

from .architecture import Architecture
from .unet import UNet, seeded_unet


class Normalise(nn.Module):
    """Pixels as float `(B, C, H, W)` -> normalised float, by the InputSpec's rule.

    imagenet takes values in [0, 255]. zscore takes any scale and offset, and gives the same for all of them, up to rounding;
    hence no epsilon. An image of zeros stays one.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.rule = spec.normalisation
        if self.rule == "imagenet":
            mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (IMAGENET_MEAN, IMAGENET_STD))
            self.register_buffer("mean", mean, persistent=False)
            self.register_buffer("std", std, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.rule == "imagenet":
            return (x - self.mean) / self.std
        centred = x - x.mean(dim=(2, 3), keepdim=True)
        deviation = centred.square().mean(dim=(2, 3), keepdim=True).sqrt()
        return centred / torch.where(deviation > 0, deviation, 1)


class Ensemble(nn.Module):
    """m UNets of one architecture, taught by one another.

    `forward(x)`: normalised float `(B, C, H, W)` -> logits `(m, B, K, H, W)`. Their mean over m is the ensemble's
    logit (Zhong et al., MICCAI 2024, section 2.3). A student is an ensemble of one; what its network says of its teachers'
    disagreement, behind the K classes, is no part of the logits.
    """

    def __init__(self, architecture: Architecture, spec: InputSpec, seeds: Sequence[int], pretrained: bool = True) -> None:
        super().__init__()
        self.architecture, self.spec = architecture, spec
        self.normalise = Normalise(spec)
        self.levels = nn.ModuleList(seeded_unet(architecture, seed, pretrained) for seed in seeds)

    @property
    def networks(self) -> list[UNet]:
        return [cast(UNet, level) for level in self.levels]

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([level(x)[:, : self.spec.outputs] for level in self.levels])

    @property
    def is_student(self) -> bool:
        """Whether the network was distilled from several, and so has learned their disagreement."""
        return self.architecture.outputs > self.spec.outputs


def activation(logits: Tensor) -> Tensor:
    """Probabilities of logits with the class axis third from the end: sigmoid for K = 1, softmax for more."""
    return logits.sigmoid() if logits.shape[-3] == 1 else logits.softmax(dim=-3)


def disagreement(probability: Tensor) -> Tensor:
    """The levels' probabilities `(m, ..., K, H, W)` -> `(..., H, W)` in [0, 0.5]: their standard deviation over the levels,
    mean over the classes. Written out, as the graph of an export has it.
    """
    centred = probability - probability.mean(dim=0, keepdim=True)
    deviation = centred.square().mean(dim=0).sqrt()
    return deviation.mean(dim=deviation.dim() - 3)


def load_ensemble(folder: Path) -> tuple[Run, Ensemble]:
    """The networks of a run folder, in eval mode on the CPU. Raises ContractError."""
    run = Run.load(folder)
    architecture = from_dict(Architecture, run.architecture, f"{folder}: architecture")
    ensemble = Ensemble(architecture, run.input, [0] * len(run.levels), pretrained=False)
    for network, level in zip(ensemble.networks, run.levels, strict=True):
        missing, unexpected = network.load_state_dict(load_file(folder / level.weights), strict=False)
        if missing or unexpected:
            raise ContractError(
                f"{folder / level.weights} does not fit {asdict(architecture)}: "
                f"{len(missing)} tensors missing, {len(unexpected)} unknown"
            )
    return run, ensemble.eval()
