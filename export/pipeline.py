"""THE path of an export: load -> strategy -> graph -> gate -> publish. Nothing is left behind by a failed one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gazeseg_serve.contract import (
    ARTIFACT_SCHEMA,
    COLOURS,
    MANIFEST_FILE,
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
from gazeseg_serve.engines.base import Engine
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.openvino import OpenVinoEngine
from gazeseg_serve.engines.tensorrt import TensorRtEngine
from gazeseg_serve.engines.tensorrt_plan import PRECISIONS as PLAN_PRECISIONS
from gazeseg_serve.engines.tensorrt_plan import build_plan, this_machine
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.files import sha256_file, write_bytes, write_json, write_text
from gazeseg_serve.folders import Kind, json_of, refuse_overlap, staged_folder
from gazeseg_serve.progress import log
from gazeseg_serve.training.learning.student import Student
from gazeseg_serve.training.networks.ensemble import Ensemble, load_ensemble

from .fidelity import Fidelity, hold_fidelity, measure_fidelity, run_all
from .gate_images import GateImages, gate_images, learning_images
from .onnx_graph import write_onnx
from .parity import Parity, check_declaration, eager_ensemble, hold, measure
from .presence import ALARM_RATE, check_rate, choose_presence
from .quantize import CALIBRATION_IMAGES, PRECISIONS, halve_weights, to_fp16, to_int8
from .report import exact_report, lossy_report
from .settings import EXACT, LOSSY, Limits, Tolerance
from .strategies import STRATEGIES, Built, build_strategy

PARITY_FILE = "parity.json"
REPORT_FILE = "report.html"
FORMATS = ("onnx", "tensorrt")
# Rounding differs with the batch at low precision; an image that reads its neighbours in the batch differs by far more.
_ROUNDED = Tolerance(max_difference=0.1, flipped=2e-3)
_BY_IMAGE = ("flipped_by_image", "agreement_by_image")


def export_run(
    run_folder: Path,
    out: Path,
    strategy: str = "fuse",
    data: Path | None = None,
    split: str = "val",
    images: int | None = None,
    tolerance: Tolerance = EXACT,
    *,
    precision: str = "fp32",
    limits: Limits = LOSSY,
    student: Student | None = None,
    unlabelled: Sequence[Path] = (),
    keep: Path | None = None,
    pictures: bool = True,
    format: str = "onnx",
    half_weights: bool = False,
    alarm_rate: float = ALARM_RATE,
) -> Artifact:
    """Make one ONNX graph of a run and publish it as the artifact folder `out`, if the gate holds.

    The gate has two parts. The fp32 graph must equal the networks it was made of, within `tolerance`. Where those are
    not the whole ensemble, or the precision is lower, what comes out must be as good as the ensemble, within `limits`.

    data        dataset folder whose `split` (as the run recorded it) the gate runs on, `images` of them at most (32 for
                an exact export, 200 for a lossy one); without it synthetic images, and the manifest says so
    precision   fp32; int8 (calibrated with training images of `data`); fp16 (for GPUs); bf16: the fp32 graph, proven
                under OpenVINO in bf16, which is then how `--device openvino` runs it
    half_weights    of an fp32 or bf16 graph: its file holds them as float16; they are rounded, the arithmetic is fp32
    student, unlabelled, keep   of the strategy `distill`: see `distil`
    pictures    False keeps the images out of the report, for data that may not be passed on
    format      onnx; or tensorrt, which builds a plan of the graph for this machine's GPU beside it: the gate then asks
                the plan
    alarm_rate  share of images without a target that may be marked all the same: the presence threshold is chosen for it
                (`choose_presence`) where `data` has such images in `split`

    Raises GateError where the gate does not hold, ConfigError, ContractError, DatasetError, TrainingError.
    """
    refuse_overlap(out, run_folder, data, keep, *unlabelled)
    _check_wishes(strategy, precision, data, format, half_weights)
    check_rate(alarm_rate)
    here = this_machine() if format == "tensorrt" else None  # before a student is trained in vain
    run, ensemble = load_ensemble(run_folder)
    lossy = strategy != "fuse" or precision != "fp32" or half_weights
    gate = gate_images(run, data, split, (200 if lossy else 32) if images is None else images)
    with staged_folder(out, ARTIFACT_FOLDER) as folder:
        built = build_strategy(strategy, run, ensemble, student or Student(), data, unlabelled, keep)
        parity = write_graph(built, run, folder / MODEL_FILE, gate, tolerance, precision, data, half_weights)
        engine = open_model(folder / MODEL_FILE, precision) if here is None else planned(folder, run.input, precision, here)
        if lossy:
            fidelity = prove(engine, ensemble, gate, limits, strategy, precision)
            facts = fidelity_facts(fidelity, parity, gate)
            page = lossy_report(
                run, strategy, precision, parity, fidelity, limits, gate, engine.run, eager_ensemble(ensemble), pictures
            )
        else:
            if here is not None:
                parity = measure(engine, built.reference, gate.images)
                hold(parity, tolerance)
            facts = parity.as_dict() | {"source": gate.source}
            page = exact_report(run, strategy, parity, tolerance, gate, engine.run, pictures)
        bounds = {"max_difference_limit": tolerance.max_difference, "flipped_limit": tolerance.flipped}
        write_json(folder / PARITY_FILE, facts | (bounds | vars(limits) if lossy else bounds))
        write_text(folder / REPORT_FILE, page)
        made = built.facts | ({"weights": "float16"} if half_weights else {})
        presence = choose_presence(engine.run, run, data, split, alarm_rate)
        artifact = _describe(run, run_folder, folder, strategy, precision, built.disagreement, made, facts, here)
        replace(artifact, presence=presence).save(folder)
    return Artifact.load(out)


def _made(folder: Path) -> set[str] | None:
    """The files that an artifact folder names as its own."""
    manifest = json_of(folder / MANIFEST_FILE)
    files = manifest.get("files")
    return {MANIFEST_FILE, *files} if manifest.get("schema") == ARTIFACT_SCHEMA and isinstance(files, dict) else None


ARTIFACT_FOLDER = Kind(f"an artifact folder ({MANIFEST_FILE})", _made)


def write_graph(
    built: Built,
    run: Run,
    model: Path,
    gate: GateImages,
    tolerance: Tolerance,
    precision: str,
    data: Path | None,
    half_weights: bool = False,
) -> Parity:
    """Write `model`: the fp32 graph, held to equal `built`'s networks, then brought to `precision` or `half_weights`."""
    spec = run.input
    write_onnx(built.module, spec, built.disagreement, model)
    check_declaration(model, spec, built.disagreement)
    parity = measure(open_model(model), built.reference, gate.images)
    log.info(
        "graph and networks on %d %s: max |difference| %.2g, flipped pixels %.4f %%",
        parity.images,
        gate.source,
        parity.max_difference,
        100 * parity.flipped,
    )
    hold(parity, tolerance)
    if precision == "int8":
        to_int8(model, learning_images(run, data, count=CALIBRATION_IMAGES))
    if precision == "fp16":
        to_fp16(model)
    if half_weights:
        halve_weights(model)
    if precision != "fp32" or half_weights:
        check_declaration(model, spec, built.disagreement)
    return parity


def prove(engine: Engine, ensemble: Ensemble, gate: GateImages, limits: Limits, strategy: str, precision: str) -> Fidelity:
    """Measure the finished graph against the ensemble, log the figures, and raise GateError where they do not hold."""
    hold(measure(engine, engine.run, gate.images[:7]), _ROUNDED)
    fidelity = measure_fidelity(
        run_all(engine.run, gate.images),
        run_all(eager_ensemble(ensemble), gate.images),
        gate.truths,
        len(ensemble.spec.classes),
    )
    log.info(
        "%s, %s and the ensemble on %d %s: agreement %.4f (worst 5 %%: %.4f), flipped pixels %.3f %%, area %+.2f %%, "
        "max |difference| %.3f, calibration shift %.4f",
        strategy,
        precision,
        fidelity.images,
        gate.source,
        fidelity.agreement,
        fidelity.agreement_worst,
        100 * fidelity.flipped,
        100 * fidelity.area_bias,
        fidelity.max_difference,
        fidelity.calibration_shift,
    )
    if fidelity.truth is not None:
        t = fidelity.truth
        log.info(
            "Dice on %d true masks: ensemble %.4f, graph %.4f, loss %+.4f [%+.4f, %+.4f]",
            t.images,
            t.dice_ensemble,
            t.dice_graph,
            t.dice_loss,
            t.dice_loss_low,
            t.dice_loss_high,
        )
    hold_fidelity(fidelity, limits)
    return fidelity


def open_model(model: Path, precision: str = "fp32") -> Engine:
    """The engine the gate runs: the runtime that will serve a graph of this precision on a CPU."""
    return OpenVinoEngine(model, "bf16") if precision == "bf16" else OnnxRuntimeEngine(model, "cpu")


def planned(folder: Path, spec: InputSpec, precision: str, here: Machine) -> Engine:
    """Build the plan of the graph in `folder` beside it, and open it."""
    plan = build_plan(folder / MODEL_FILE, precision, here)
    write_bytes(folder / PLAN_FILE, plan)
    return TensorRtEngine(plan, spec.dtype)


def fidelity_facts(fidelity: Fidelity, parity: Parity, gate: GateImages) -> dict[str, Any]:
    """The figures of a lossy gate; under "graph" how far the fp32 file is from the networks it was made of."""
    return fidelity.as_dict() | {
        "source": gate.source,
        "batch_sizes": parity.batch_sizes,
        "graph": {"max_difference": parity.max_difference, "flipped": parity.flipped},
    }


def _check_wishes(strategy: str, precision: str, data: Path | None, format: str, half_weights: bool) -> None:
    if format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}; known: {', '.join(FORMATS)}; triton, of an artifact")
    if format == "tensorrt" and precision not in PLAN_PRECISIONS:
        raise ConfigError(f"a TensorRT plan is of {' or '.join(PLAN_PRECISIONS)}, not {precision}")
    if strategy not in STRATEGIES:
        raise ConfigError(f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")
    if half_weights and precision not in ("fp32", "bf16"):
        raise ConfigError(f"{precision} stores its weights small already; leave --half-weights out")
    if precision == "int8" and data is None:
        raise ConfigError("int8 is calibrated with images; pass --data DATASET, the one the run was trained on")


def _describe(
    run: Run,
    run_folder: Path,
    folder: Path,
    strategy: str,
    precision: str,
    disagreement: bool,
    made: dict[str, Any],
    facts: dict[str, Any],
    here: Machine | None,
) -> Artifact:
    """made: how the graph was made, as provenance; facts: what the gate measured."""
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
        strategy=strategy,
        precision=precision,
        input=run.input,
        inputs=graph_inputs(run.input),
        outputs=graph_outputs(run.input, disagreement),
        colours=_colours(run.input),
        threshold=0.5,
        files=files,
        parity=json.loads(json.dumps(short)),
        provenance=provenance,
        plan=None if here is None else Plan(PLAN_FILE, here),
    )


def _colours(spec: InputSpec) -> tuple[tuple[int, int, int], ...]:
    return tuple(COLOURS[i % len(COLOURS)] for i in range(len(spec.classes)))
