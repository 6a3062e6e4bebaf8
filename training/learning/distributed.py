"""One process, or those that `torchrun` started: who they are, and what they average.

`optimiser.batch` is the whole batch; every process draws and augments it alike, then computes its own share. So n
processes train as one does, up to the rounding of sums, where the loss is a mean over images: batch norm takes its
statistics of each share, and a loss that leaves pixels out weighs the shares alike.
"""

from __future__ import annotations

import logging
import os
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import nn

from gazeseg_serve import cpus
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.progress import log

from .config import TrainConfig

DEVICES = ("auto", "cpu", "cuda")


def check_device(device: str) -> None:
    """Raises ConfigError for a device that is unknown or not there."""
    if device not in DEVICES:
        raise ConfigError(f"device {device!r} is not known; use one of: {', '.join(DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: no GPU can be used here (no driver, or a torch without CUDA); use cpu or auto")


def open_fabric(config: TrainConfig, device: str) -> Fabric:
    """The process group that torchrun's environment describes (gloo on CPUs, NCCL on GPUs), else this process alone.

    Raises ConfigError where the batch cannot be shared out evenly.
    """
    check_device(device)
    torch.set_num_threads(min(torch.get_num_threads(), cpus.available()))  # torch counts the machine's, whatever a quota says
    world, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if config.optimiser.batch % world:
        raise ConfigError(
            f"optimiser.batch = {config.optimiser.batch} cannot be shared by {world} processes; use a multiple of {world}"
        )
    if world == 1:
        return Fabric(accelerator=device, devices=1, precision=cast(Any, config.precision))
    fabric = Fabric(
        accelerator=device, devices=here, num_nodes=world // here, strategy="ddp", precision=cast(Any, config.precision)
    )
    fabric.launch()
    if not fabric.is_global_zero:
        log.setLevel(logging.ERROR)
    return fabric


def average_gradients(fabric: Fabric, model: nn.Module, parts: dict[str, float]) -> dict[str, float]:
    """Replace each gradient by its mean over the processes; returns the means of `parts`, the values of the loss."""
    if fabric.world_size == 1:
        return parts
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    values = torch.tensor(list(parts.values()), device=fabric.device)
    flat = torch.cat([values, *(gradient.flatten() for gradient in gradients)])
    mean = cast(torch.Tensor, fabric.all_reduce(flat, reduce_op="mean"))
    means, *shares = mean.split([len(values), *(gradient.numel() for gradient in gradients)])
    for gradient, share in zip(gradients, shares, strict=True):
        gradient.copy_(share.view(gradient.shape))
    return dict(zip(parts, means.tolist(), strict=True))
