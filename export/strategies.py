"""What each strategy makes of a run: the module to export, and the unfused networks it must equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from gazeseg_serve.contract import Run
from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.training.learning.distill import distill_run
from gazeseg_serve.training.learning.student import Student
from gazeseg_serve.training.networks.ensemble import Ensemble
from gazeseg_serve.training.networks.unet import UNet

from .fuse import FusedEnsemble
from .gate_images import learning_images, learning_negatives
from .parity import eager_ensemble
from .settings import ExportSettings
from .single import average, best_level
from .student_graph import StudentGraph, eager_student


@dataclass(frozen=True)
class Built:
    """module: `(B, H, W, C)` in, the declared outputs out. reference: the same networks, unfolded and unfused.

    facts: what the manifest says of how it was made.
    """

    module: nn.Module
    reference: Callable[[np.ndarray], Outputs]
    disagreement: bool
    facts: dict[str, Any] = field(default_factory=dict)


def build_strategy(settings: ExportSettings, run: Run, ensemble: Ensemble, data: Path | None, student_run: Path) -> Built:
    """What the strategy makes of a run. Raises ConfigError for one that this run cannot have, and what `distill` raises.

    student_run: the folder of the student's training, for the strategy distill.
    """
    if ensemble.is_student:
        if settings.strategy != "fuse":
            raise ConfigError(f"the run is a student, one network; {settings.strategy} is for several: leave --strategy out")
        return _student(ensemble.networks[0], run, {"distilled_from": run.config.get("origin", {}).get("distilled_from", [])})
    if settings.strategy == "fuse":
        return Built(FusedEnsemble(ensemble), eager_ensemble(ensemble), len(ensemble.levels) > 1)
    if settings.strategy == "average":
        single = average(ensemble)
        return Built(FusedEnsemble(single), eager_ensemble(single), False)
    if settings.strategy == "best-level":
        index, single = best_level(run, ensemble)
        return Built(FusedEnsemble(single), eager_ensemble(single), False, {"level": index + 1})
    images = learning_images(run, data, settings.unlabelled)
    recorded = all("val_dice" in level.metrics for level in run.levels)
    start = ensemble.networks[best_level(run, ensemble)[0] if recorded else 0]
    student = settings.student or Student()
    empty = learning_negatives(run, data) if student.negatives else None
    network, _ = distill_run(run, ensemble, images, student, start, student_run, empty)
    return _student(network, run, {"student": asdict(student) | {"images": len(images)}})


def _student(network: UNet, run: Run, facts: dict[str, Any]) -> Built:
    graph = StudentGraph(network, run.input)
    return Built(graph, eager_student(network, graph), graph.has_disagreement, facts)
