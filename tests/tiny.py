"""A training configuration small enough for tests."""

from __future__ import annotations

from typing import Any

from gazeseg_serve.toml_file import apply_override
from gazeseg_serve.training.learning.config import TrainConfig, parse_config


def tiny_config(*overrides: str) -> TrainConfig:
    """Two 4-wide levels at 32 x 32, three steps of batch 4; `overrides` as on the command line."""
    values: dict[str, Any] = {
        "data": {"size": 32, "maps": "heatmaps"},
        "levels": {"thresholds": [0.5, 0.3], "shared_start": False},
        "network": {"width": 4, "norm": "batch"},
        "augment": {"flips": True, "rotate": 20.0, "noise": 0.02},
        "optimiser": {"name": "adamw", "rate": 1e-2, "final_rate": 1e-4, "weight_decay": 0.0, "steps": 3, "batch": 4},
        "evaluate_every": 2,
        "checkpoint_every": 1,
    }
    for override in overrides:
        apply_override(values, override)
    return parse_config(values)
