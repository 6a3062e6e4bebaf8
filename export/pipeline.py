"""THE path of an export: load -> strategy -> graph -> gate -> publish. Nothing is left behind by a failed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gazeseg_serve.contract import (
    ARTIFACT_FOLDER,
    MODEL_FILE,
    PLAN_FILE,
    Artifact,
    InputSpec,
    Machine,
    Run,
)
from gazeseg_serve.engines.base import Engine
from gazeseg_serve.engines.tensorrt import TensorRtEngine
from gazeseg_serve.engines.tensorrt_plan import build_plan, this_machine
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.familiar import learn
from gazeseg_serve.files import write_bytes, write_json, write_text
from gazeseg_serve.folders import refuse_overlap, staged_folder
from gazeseg_serve.progress import log
from gazeseg_serve.training.networks.ensemble import Ensemble, load_ensemble

from .fidelity import Fidelity, hold_fidelity, measure_fidelity, run_all
from .gate_images import GateImages, gate_images, learned, learning_images
from .manifest import describe
from .parity import Parity, check_declaration, eager_ensemble, hold, measure
from .presence import choose_presence
from .quantize import CALIBRATION_IMAGES, halve_weights
from .report import exact_report, lossy_report
from .settings import AllowedLoss, ExportSettings, Tolerance
from .strategies import Built, build_strategy
from .tools import Tools

PARITY_FILE = "parity.json"
REPORT_FILE = "report.html"
# Rounding differs with the batch at low precision; an image that reads its neighbours in the batch differs by far more.
_ROUNDED = Tolerance(max_difference=0.1, flipped=2e-3)


def export_run(
    run_folder: Path | str,
    out: Path | str,
    data: Path | str | None = None,
    settings: ExportSettings | None = None,
    *,
    tools: Tools | None = None,
) -> Artifact:
    """Make one ONNX graph of a run and publish it as the artifact folder `out`, if the gate holds.

    The gate has two parts. The fp32 graph must equal the networks it was made of, within `settings.tolerance`. Where those
    are not the whole ensemble, or the precision is lower, what comes out must be as good as the ensemble, within
    `settings.allowed`.

    data    dataset folder whose split the gate runs on; without it synthetic images, and the manifest says so
    tools   other ways to trace, convert and open a graph, for tests

    Raises GateError where the gate does not hold, ConfigError, ContractError, DatasetError, TrainingError.
    """
    settings, tools = settings or ExportSettings(), tools or Tools()
    run_folder, out, data = Path(run_folder), Path(out), Path(data) if data is not None else None
    refuse_overlap(out, run_folder, data, settings.student_run, *settings.unlabelled)
    if settings.precision == "int8" and data is None:
        raise ConfigError("int8 is calibrated with images; pass --data DATASET, the one the run was trained on")
    here = this_machine() if settings.format == "tensorrt" else None  # before a student is trained in vain
    run, ensemble = load_ensemble(run_folder)
    gate = gate_images(run, data, settings.split, settings.gate_images)
    with staged_folder(out, ARTIFACT_FOLDER) as folder:
        student_run = settings.student_run or out.absolute().with_name(out.name + "-student")
        built = build_strategy(settings, run, ensemble, data, student_run)
        parity = write_graph(built, run, folder / MODEL_FILE, gate, settings.tolerance, settings.precision, data, tools)
        if here is None:
            engine = tools.open(folder / MODEL_FILE, settings.precision)
        else:
            engine = planned(folder, run.input, settings.precision, here)
        prove = _prove_as_good if settings.lossy else _prove_equal
        facts, page = prove(settings, run, ensemble, built, engine, gate, parity)
        write_json(folder / PARITY_FILE, facts | settings.limits())
        write_text(folder / REPORT_FILE, page)
        presence = choose_presence(engine.run, run, data, settings.split, settings.alarm_rate)
        familiar = learn(learned(run, data))
        describe(settings, run, run_folder, folder, built, facts, here, presence, familiar).save(folder)
    return Artifact.load(out)


def _prove_equal(
    settings: ExportSettings, run: Run, ensemble: Ensemble, built: Built, engine: Engine, gate: GateImages, parity: Parity
) -> tuple[dict[str, Any], str]:
    """The exact gate: figures and report. The graph was held to equal the networks; a plan made of it is asked anew."""
    if settings.format == "tensorrt":
        parity = measure(engine, built.reference, gate.images)
        hold(parity, settings.tolerance)
    page = exact_report(run, settings.strategy, parity, settings.tolerance, gate, engine.run, settings.pictures)
    return parity.as_dict() | {"source": gate.source}, page


def _prove_as_good(
    settings: ExportSettings, run: Run, ensemble: Ensemble, built: Built, engine: Engine, gate: GateImages, parity: Parity
) -> tuple[dict[str, Any], str]:
    """The lossy gate: figures and report of the finished graph against the ensemble."""
    what = (settings.strategy, settings.arithmetic)
    fidelity = measure_loss(engine, ensemble, gate, settings.allowed, *what)
    ask = eager_ensemble(ensemble)
    page = lossy_report(run, *what, parity, fidelity, settings.allowed, gate, engine.run, ask, settings.pictures)
    return fidelity_facts(fidelity, parity, gate), page


def write_graph(
    built: Built,
    run: Run,
    model: Path,
    gate: GateImages,
    tolerance: Tolerance,
    precision: str,
    data: Path | None,
    tools: Tools,
) -> Parity:
    """Write `model`: the fp32 graph, held to equal `built`'s networks, then brought to `precision`."""
    spec = run.input
    tools.trace(built.module, spec, built.disagreement, model)
    check_declaration(model, spec, built.disagreement)
    parity = measure(tools.open(model, "fp32"), built.reference, gate.images)
    log.info(
        "graph and networks on %d %s: max |difference| %.2g, flipped pixels %.4f %%",
        parity.images,
        gate.source,
        parity.max_difference,
        100 * parity.flipped,
    )
    hold(parity, tolerance)
    if precision == "int8":
        tools.to_int8(model, learning_images(run, data, count=CALIBRATION_IMAGES))
    elif precision == "fp16":
        tools.to_fp16(model)
    elif precision == "fp16-weights":
        halve_weights(model)
    if precision != "fp32":
        check_declaration(model, spec, built.disagreement)
    return parity


def measure_loss(
    engine: Engine, ensemble: Ensemble, gate: GateImages, allowed: AllowedLoss, strategy: str, precision: str
) -> Fidelity:
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
    hold_fidelity(fidelity, allowed)
    return fidelity


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
