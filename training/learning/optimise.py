"""Optimiser, learning rate and averaged weights."""

from __future__ import annotations

import bisect
import math

import torch
from torch import nn

from gazeseg_serve.errors import TrainingError

from .config import Optimiser


def make_optimiser(settings: Optimiser, model: nn.Module) -> torch.optim.Optimizer:
    if settings.name == "sgd":
        return torch.optim.SGD(
            model.parameters(), settings.rate, settings.momentum, nesterov=True, weight_decay=settings.weight_decay
        )
    return torch.optim.AdamW(model.parameters(), settings.rate, weight_decay=settings.weight_decay)


@torch.no_grad()
def average_weights(average: nn.Module, model: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * model, parameters and norm statistics alike; counters are copied."""
    for kept, now in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(now, 1 - decay)
        else:
            kept.copy_(now)


def rate_at(step: int, settings: Optimiser) -> float:
    """Linear rise over the warm-up, then a half cosine from the cycle's rate to `final_rate`."""
    begins = (0, *settings.restarts)
    cycle = bisect.bisect_right(begins, step) - 1
    end = (*settings.restarts, settings.steps)[cycle]
    rate, length, at = settings.rate / 2**cycle, end - begins[cycle], step - begins[cycle]
    rising = settings.warmup * length
    if at < rising:
        return rate * (at + 1) / (rising + 1)
    progress = (at - rising) / max(1.0, length - rising)
    return settings.final_rate + (rate - settings.final_rate) * (1 + math.cos(math.pi * progress)) / 2


def set_rate(optimiser: torch.optim.Optimizer, step: int, settings: Optimiser) -> float:
    """Give the optimiser the rate of `step`, and return it."""
    rate = rate_at(step, settings)
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


def check_finite(loss: float, step: int, seen: object) -> None:
    """TrainingError for a loss that is not finite; `seen` says what the step looked at."""
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} at step {step}, {seen}; lower the learning rate, or use precision 32-true")
