"""State of an unfinished training: one safetensors file, replaced whole. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.optim import Optimizer

from gazeseg_serve.errors import ContractError, TrainingError
from gazeseg_serve.files import write_bytes

STATE_FILE = "checkpoint/state.safetensors"


def save_checkpoint(
    run: Path, step: int, config: dict[str, Any], history: list[dict[str, float]], model: nn.Module, optimiser: Optimizer
) -> None:
    """Write weights, optimiser state and history after `step` finished steps, beside the old file, then rename."""
    tensors = {f"model.{name}": tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {
            f"optimiser.{index}.{name}": value.detach().contiguous() for name, value in state.items() if value is not None
        }
    facts = {"step": str(step), "config": json.dumps(config), "history": json.dumps(history)}
    write_bytes(run / STATE_FILE, save({name: tensor.cpu() for name, tensor in tensors.items()}, facts))


def load_checkpoint(
    run: Path, config: dict[str, Any], model: nn.Module, optimiser: Optimizer
) -> tuple[int, list[dict[str, float]]]:
    """Restore the state in place; returns (finished steps, history). TrainingError where the config is another one."""
    try:
        with safe_open(run / STATE_FILE, framework="pt") as file:
            facts = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise TrainingError(f"{run / STATE_FILE} does not exist; start without --resume") from None
    except (OSError, SafetensorError) as error:
        raise ContractError(f"{run / STATE_FILE}: {error}; it cannot be gone on with, so train into another folder") from error
    if not facts or not {"config", "history", "step"} <= set(facts):
        raise ContractError(f"{run / STATE_FILE} is no checkpoint of a training; choose another folder")
    recorded = json.loads(facts["config"])
    if json.loads(json.dumps(config)) != recorded:
        changed = sorted(key for key in config if json.loads(json.dumps(config[key])) != recorded.get(key))
        raise TrainingError(
            f"{run} was trained with another config ({', '.join(changed)} changed); use the same one, or another folder"
        )
    model.load_state_dict(
        {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    )
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimiser."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(facts["step"]), json.loads(facts["history"])
