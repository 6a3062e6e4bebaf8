"""What each strategy makes of a run: the module to export, and the unfused networks it must equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from gazeseg_serve.contract import Run
from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.training.learning.distill import distil
from gazeseg_serve.training.learning.student import Student
from gazeseg_serve.training.networks.ensemble import Ensemble

from .fuse import FusedEnsemble
from .gate_images import learning_images
from .parity import eager_ensemble
from .single import average, best_level
from .student_graph import StudentGraph, eager_student

STRATEGIES = ("fuse", "average", "best-level", "distill")


@dataclass(frozen=True)
class Built:
    """module: `(B, H, W, C)` in, the declared outputs out. reference: the same networks, unfolded and unfused.

    facts: what the manifest says of how it was made.
    """

    module: nn.Module
    reference: Callable[[np.ndarray], Outputs]
    disagreement: bool
    facts: dict[str, Any] = field(default_factory=dict)


def build_strategy(
    strategy: str,
    run: Run,
    ensemble: Ensemble,
    student: Student,
    data: Path | None = None,
    unlabelled: Sequence[Path] = (),
    keep: Path | None = None,
) -> Built:
    """Raises ConfigError for an unknown strategy or one that this run cannot have, and what `distil` raises."""
    if strategy == "fuse":
        return Built(FusedEnsemble(ensemble), eager_ensemble(ensemble), len(ensemble.levels) > 1)
    if strategy == "average":
        single = average(ensemble)
        return Built(FusedEnsemble(single), eager_ensemble(single), False)
    if strategy == "best-level":
        index, single = best_level(run, ensemble)
        return Built(FusedEnsemble(single), eager_ensemble(single), False, {"level": index + 1})
    if strategy == "distill":
        images = learning_images(run, data, unlabelled)
        recorded = all("val_dice" in level.metrics for level in run.levels)
        start = ensemble.networks[best_level(run, ensemble)[0] if recorded else 0]
        network = distil(ensemble, images, student, start, keep)
        graph = StudentGraph(network, run.input)
        return Built(
            graph, eager_student(network, graph), graph.has_disagreement, {"student": asdict(student) | {"images": len(images)}}
        )
    raise ConfigError(f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}")
