"""Strategies `average` and `best-level`: one network in place of m, at one network's cost."""

from __future__ import annotations

import copy

import torch

from gazeseg_serve.contract import Run
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.training.networks.ensemble import Ensemble
from gazeseg_serve.training.networks.unet import UNet


def average(ensemble: Ensemble) -> Ensemble:
    """The levels' weights, averaged in float64; integer buffers are those of the first level.

    Sound where the levels began with the same weights and stayed near one another (model soups, Wortsman et al.,
    ICML 2022); where they did not, the average is another network, and the gate says so.
    """
    states = [level.state_dict() for level in ensemble.networks]
    mean = {
        name: torch.stack([s[name].double() for s in states]).mean(dim=0).to(value.dtype)
        if value.is_floating_point()
        else value
        for name, value in states[0].items()
    }
    network = copy.deepcopy(ensemble.networks[0])
    network.load_state_dict(mean)
    return alone(ensemble, network)


def best_level(run: Run, ensemble: Ensemble) -> tuple[int, Ensemble]:
    """(index from 0, the level with the highest validation Dice). ConfigError where the run recorded none."""
    values = [level.metrics.get("val_dice") for level in run.levels]
    if None in values:
        raise ConfigError(
            "the run recorded no validation Dice for its levels, so none is known to be best; train with "
            "true masks of the validation images, or use --strategy fuse"
        )
    best = max(range(len(values)), key=lambda i: values[i])  # type: ignore[arg-type, return-value]
    return best, alone(ensemble, ensemble.networks[best])


def alone(ensemble: Ensemble, network: UNet) -> Ensemble:
    """An ensemble of the one `network`, with the same input; in eval mode."""
    single = Ensemble(ensemble.architecture, ensemble.spec, seeds=())
    single.levels.append(network)
    return single.eval()
