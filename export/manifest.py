"""The manifest of an artifact: what the graph is, how good it is and where it came from."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gazeseg_serve.contract import (
    COLOURS,
    MODEL_FILE,
    PLAN_FILE,
    RUN_FILE,
    Artifact,
    InputSpec,
    Machine,
    Plan,
    Run,
    graph_inputs,
    graph_outputs,
    split_fingerprints,
)
from gazeseg_serve.familiar import Familiar
from gazeseg_serve.files import sha256_file
from gazeseg_serve.presence import Presence

from .settings import ExportSettings
from .strategies import Built

_BY_IMAGE = ("flipped_by_image", "agreement_by_image")


def describe(
    settings: ExportSettings,
    run: Run,
    run_folder: Path,
    folder: Path,
    built: Built,
    facts: dict[str, Any],
    machine: Machine | None,
    presence: Presence | None,
    familiar: Familiar | None,
) -> Artifact:
    """The manifest of the finished files in `folder`.

    facts: what the gate measured. machine: the one that a TensorRT plan in `folder` was built on.
    """
    made = built.facts | ({"weights": "float16"} if settings.precision == "fp16-weights" else {})
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    short = {key: value for key, value in facts.items() if key not in _BY_IMAGE and value is not None}
    provenance = {
        "run": sha256_file(run_folder / RUN_FILE),
        "levels": [level.sha256 for level in run.levels],
        "thresholds": [level.threshold for level in run.levels],
        "architecture": run.architecture,
        "seed": run.seed,
        "fingerprints": run.fingerprints,
        "metrics": run.metrics,
        "splits": split_fingerprints(run.splits),
        "versions": run.versions | {name: version(name) for name in ("onnx", "onnxruntime")},
    } | made
    return Artifact(
        id=files[MODEL_FILE],
        strategy=settings.strategy,
        precision=settings.arithmetic,
        input=run.input,
        inputs=graph_inputs(run.input),
        outputs=graph_outputs(run.input, built.disagreement),
        colours=_colours(run.input),
        threshold=0.5,
        files=files,
        parity=json.loads(json.dumps(short)),
        presence=presence,
        familiar=familiar,
        provenance=provenance,
        plan=None if machine is None else Plan(PLAN_FILE, machine),
    )


def _colours(spec: InputSpec) -> tuple[tuple[int, int, int], ...]:
    return tuple(COLOURS[i % len(COLOURS)] for i in range(len(spec.classes)))
