"""A distilled student as a graph, and as the network that it must equal."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.training.networks.ensemble import Normalise, activation
from gazeseg_serve.training.networks.unet import UNet

from .fuse import fold_tail


class StudentGraph(nn.Module):
    """`(B, H, W, C)` -> probability `(B, K, H, W)` and, with the second head, disagreement `(B, H, W)` in [0, 0.5]."""

    def __init__(self, student: UNet, spec: InputSpec) -> None:
        super().__init__()
        self.normalise, self.network, self.classes = Normalise(spec), fold_tail(student), spec.outputs
        self.has_disagreement = student.classifier.out_channels > spec.outputs

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.network(self.normalise(image.float().permute(0, 3, 1, 2)))
        probability = activation(logits[:, : self.classes])
        return (probability, logits[:, self.classes].sigmoid() / 2) if self.has_disagreement else (probability,)


def eager_student(student: UNet, graph: StudentGraph) -> Callable[[np.ndarray], Outputs]:
    """The student as trained, its two last convolutions apart. `(B, H, W, C)` -> Outputs."""

    @torch.no_grad()
    def run(batch: np.ndarray) -> Outputs:
        logits = student(graph.normalise(torch.from_numpy(batch).permute(0, 3, 1, 2).float()))
        spread = (logits[:, graph.classes].sigmoid() / 2).numpy() if graph.has_disagreement else None
        return Outputs(activation(logits[:, : graph.classes]).numpy(), spread)

    return run
