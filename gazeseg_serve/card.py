"""What a run or an artifact is, as lines for a terminal and as facts for a machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from .contract import Artifact, InputSpec, Run, is_artifact, is_run
from .errors import ContractError
from .familiar import Familiar
from .presence import Presence


def model_card(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """(lines, facts) of a run or an artifact folder, its hashes checked. Raises ContractError."""
    if is_artifact(folder):
        artifact = Artifact.load(folder)
        return _artifact_lines(folder, artifact), dataclasses.asdict(artifact)
    if is_run(folder):
        run = Run.load(folder)
        return _run_lines(folder, run), dataclasses.asdict(run)
    raise ContractError(f"{folder} is neither a run (run.json) nor an artifact (manifest.json)")


def _artifact_lines(folder: Path, artifact: Artifact) -> list[str]:
    size = (folder / artifact.model).stat().st_size / 2**20
    lines = [
        f"artifact     {folder}",
        f"id           {artifact.id}",
        f"model        {artifact.strategy}, {artifact.precision}, {size:.1f} MiB, hashes checked",
        *_input_lines(artifact.input),
    ]
    lines += [f"output       {t.name} {t.dtype} ({', '.join(map(str, t.axes))})" for t in artifact.outputs]
    lines += [f"threshold    {artifact.threshold:g}", f"presence     {_presence(artifact.presence)}"]
    lines += [f"familiar     {_familiar(artifact.familiar)}"]
    if artifact.intended_use is not None:
        lines += [f"for          {artifact.intended_use.text}"]
    lines += [
        f"code         {name}: {known.type.meaning} ({known.type.scheme} {known.type.value})"
        for name, known in zip(artifact.input.classes, artifact.codes, strict=False)
    ]
    lines += [f"parity       {name} {_short(value)}" for name, value in artifact.parity.items()]
    provenance = artifact.provenance
    lines += [
        f"trained      {name} {_short(provenance[name])}"
        for name in ("thresholds", "architecture", "seed", "metrics")
        if name in provenance
    ]
    return lines


def _familiar(rule: Familiar | None) -> str:
    if rule is None:
        return "not said: no image is called unusual"
    ranges = ", ".join(f"{name} {low:.3g} to {rule.high[name]:.3g}" for name, low in rule.low.items())
    return f"{ranges}, of {rule.images} images; far outside of it an image is unusual"


def _presence(rule: Presence | None) -> str:
    if rule is None:
        return "not said: every image may be marked, and no rate of false alarms is promised"
    return (
        f"nothing is marked under {rule.threshold:.3g}, so that at most {100 * rule.alarm_rate:g} % of images without a target "
        f"are; chosen on {rule.without} of them; {100 * rule.suppressed:.1f} % of {rule.with_target} with one pass for empty"
    )


def _run_lines(folder: Path, run: Run) -> list[str]:
    lines = [f"run          {folder}", f"network      {_short(run.architecture)}", *_input_lines(run.input)]
    lines += [
        f"level {i + 1}      threshold {level.threshold:g}, {level.weights}, {_short(level.metrics)}"
        for i, level in enumerate(run.levels)
    ]
    lines += [f"ensemble     {_short(run.metrics)}", f"seed         {run.seed}"]
    lines += [f"split        {name}: {len(stems)} images" for name, stems in run.splits.items()]
    lines += [f"fingerprint  {name} {digest[:16]}" for name, digest in run.fingerprints.items()]
    return lines


def _input_lines(spec: InputSpec) -> list[str]:
    kind = "RGB" if spec.channels == 3 else "grey"
    return [
        f"input        {kind} {spec.size} x {spec.size}, {spec.resize}, {spec.normalisation}, {spec.dtype}",
        *([] if spec.window is None else [f"window       {spec.window[0]:g} to {spec.window[1]:g} HU"]),
        f"classes      {', '.join(spec.classes)}",
    ]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(item)}" for key, item in value.items()) or "not measured"
    if isinstance(value, list | tuple):
        return ", ".join(_short(item) for item in value)
    return str(value)
