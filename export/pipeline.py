"""THE path of an export: load -> strategy -> graph -> gate -> publish. Nothing is left behind by a failed one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from gazeseg_serve.contract import (
    COLOURS,
    MANIFEST_FILE,
    MODEL_FILE,
    RUN_FILE,
    Artifact,
    InputSpec,
    Run,
    graph_inputs,
    graph_outputs,
    split_fingerprints,
)
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.engine import Engine
from gazeseg_serve.engine_onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.files import sha256_file, staged_folder, write_json, write_text
from gazeseg_serve.imaging import resize_image
from gazeseg_serve.progress import log
from gazeseg_serve.training.ensemble import load_ensemble
from gazeseg_serve.training.phantoms import phantom

from .fuse import FusedEnsemble
from .onnx_graph import write_onnx
from .parity import EXACT, Parity, Tolerance, check_declaration, eager_ensemble, hold, measure
from .report import write_report

STRATEGIES = ("fuse",)
PARITY_FILE = "parity.json"
REPORT_FILE = "report.html"


def export_run(run_folder: Path, out: Path, strategy: str = "fuse", data: Path | None = None, split: str = "val",
               images: int = 32, tolerance: Tolerance = EXACT) -> Artifact:
    """Make one ONNX graph of a run and publish it as the artifact folder `out`, if the gate holds.

    data: dataset folder whose `split` (as the run recorded it) the gate runs on, `images` of them at most; without it
    the gate runs on synthetic images, and the manifest says so. Raises GateError where the gate does not hold,
    ConfigError, ContractError, DatasetError.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}")
    run, ensemble = load_ensemble(run_folder)
    spec, disagreement = run.input, len(run.levels) > 1
    batch, source = _gate_images(run, data, split, images)
    with staged_folder(out, MANIFEST_FILE) as folder:
        model = folder / MODEL_FILE
        write_onnx(FusedEnsemble(ensemble), spec, disagreement, model)
        check_declaration(model, spec, disagreement)
        engine = open_model(model)
        parity = measure(engine, eager_ensemble(ensemble), batch)
        log.info("gate on %d %s: max |difference| %.2g, flipped pixels %.4f %%", parity.images, source,
                 parity.max_difference, 100 * parity.flipped)
        hold(parity, tolerance)
        facts = parity.as_dict() | {"source": source, "max_difference_limit": tolerance.max_difference,
                                    "flipped_limit": tolerance.flipped}
        write_json(folder / PARITY_FILE, facts)
        write_text(folder / REPORT_FILE, write_report(run, strategy, parity, tolerance, source, batch, engine.run))
        artifact = _describe(run, run_folder, folder, strategy, parity, source, disagreement)
        artifact.save(folder)
    return Artifact.load(out)


def open_model(model: Path) -> Engine:
    """The engine the gate runs: the runtime that will serve the graph on a CPU."""
    return OnnxRuntimeEngine(model, "cpu")


def _describe(run: Run, run_folder: Path, folder: Path, strategy: str, parity: Parity, source: str,
              disagreement: bool) -> Artifact:
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    short = {key: value for key, value in parity.as_dict().items() if key != "flipped_by_image"}
    provenance = {"run": sha256_file(run_folder / RUN_FILE), "levels": [level.sha256 for level in run.levels],
                  "thresholds": [level.threshold for level in run.levels], "architecture": run.architecture,
                  "seed": run.seed, "fingerprints": run.fingerprints, "metrics": run.metrics,
                  "splits": split_fingerprints(run.splits),
                  "versions": run.versions | {name: version(name) for name in ("onnx", "onnxruntime")}}
    return Artifact(
        id=files[MODEL_FILE], strategy=strategy, precision="fp32", input=run.input, inputs=graph_inputs(run.input),
        outputs=graph_outputs(run.input, disagreement), colours=_colours(run.input), threshold=0.5, files=files,
        parity=json.loads(json.dumps(short | {"source": source})), provenance=provenance)


def _colours(spec: InputSpec) -> tuple[tuple[int, int, int], ...]:
    return tuple(COLOURS[i % len(COLOURS)] for i in range(len(spec.classes)))


def _gate_images(run: Run, data: Path | None, split: str, count: int) -> tuple[np.ndarray, str]:
    """uint8 `(N, size, size, C)` for the gate, and the words that say what they are."""
    spec = run.input
    if count < 1:
        raise ConfigError("the gate needs at least one image")
    if data is None:
        log.warning("no --data given: the gate runs on synthetic images; pass --data DATASET to use your own")
        rng = np.random.default_rng(0)
        made: Sequence[np.ndarray] = [phantom(spec.size, rng)[0] for _ in range(count)]
        return np.stack([_with_channels(image, spec.channels) for image in made]), "synthetic images"
    dataset = Dataset.open(data)
    stems = run.splits.get(split) or ()
    known = [stem for stem in stems if stem in dataset.images][:count]
    if not known:
        raise DatasetError(f"{data} holds none of the run's {split} images; pass the dataset the run was trained on")
    size = (spec.size, spec.size)
    return np.stack([resize_image(dataset.image(s, spec.channels), size) for s in known]), f"images of split {split}"


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    return image if channels == 3 else image.mean(axis=2, keepdims=True).astype(np.uint8)
