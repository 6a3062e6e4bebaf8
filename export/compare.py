"""All strategies and precisions of one run, measured in one go, and which to take."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gazeseg_serve.contract import MODEL_FILE, Run
from gazeseg_serve.engines.base import Engine, Outputs
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.openvino import OpenVinoEngine, has_bf16
from gazeseg_serve.errors import ConfigError, GateError, MissingExtraError
from gazeseg_serve.files import write_json, write_text
from gazeseg_serve.folders import Kind, refuse_overlap, schema_of, staged_folder
from gazeseg_serve.progress import log
from gazeseg_serve.training.networks.ensemble import Ensemble, load_ensemble

from .bench import Timing, peak_memory, time_calls
from .candidate import Candidate, Comparison, recommend
from .compare_page import comparison_page
from .fidelity import judged, measure_fidelity, run_all
from .flops import count_flops
from .gate_images import GateImages, gate_images, learning_images
from .parity import eager_ensemble
from .pipeline import write_graph
from .quantize import CALIBRATION_IMAGES, to_fp16, to_int8
from .settings import STRATEGIES, ExportSettings
from .strategies import build_strategy
from .tools import Tools

COMPARISON_SCHEMA = "gazeseg-comparison/1"
RESULT_FILE = "compare.json"
PAGE_FILE = "compare.html"
EAGER = "ensemble in PyTorch"
BATCHES = (1, 8)


def compare(
    run_folder: Path,
    data: Path,
    out: Path,
    settings: ExportSettings | None = None,
    *,
    strategies: Sequence[str] = STRATEGIES,
    threads: int = 0,
    seconds: float = 2.0,
    tools: Tools | None = None,
) -> Comparison:
    """Build every strategy once, bring it to every precision, measure all of it and write the page `out`/compare.html.

    A strategy that this run cannot have is left out, and said. threads: of each engine, 0 = all there are. Raises what
    `export_run` raises, except that a lossy gate which does not hold becomes a row of the page.
    """
    unknown = [name for name in strategies if name not in STRATEGIES]
    if unknown or not strategies:
        raise ConfigError(f"unknown strategy {', '.join(unknown)!r}; known: {', '.join(STRATEGIES)}")
    settings = settings or ExportSettings(strategies[0])
    refuse_overlap(out, run_folder, data, settings.student_run, *settings.unlabelled)
    run, ensemble = load_ensemble(run_folder)
    gate = gate_images(run, data, settings.split, 200 if settings.images is None else settings.images)
    student_run = settings.student_run or out.absolute().with_name(out.name + "-student")
    wanted = run_all(eager_ensemble(ensemble), gate.images)
    with staged_folder(out, COMPARISON_FOLDER) as folder, tempfile.TemporaryDirectory() as temporary:
        found = [_eager(run_folder, run, ensemble, gate, wanted, threads, seconds)]
        for strategy in strategies:
            try:
                built = build_strategy(replace(settings, strategy=strategy), run, ensemble, data, student_run)
                model = Path(temporary) / strategy / MODEL_FILE
                model.parent.mkdir()
                write_graph(built, run, model, gate, settings.tolerance, "fp32", data, tools or Tools())
            except (ConfigError, GateError) as error:
                log.warning("%s is left out: %s", strategy, error)
                continue
            for name, engine, precision, path in _ways(strategy, model, run, data, threads):
                log.info("measuring %s", name)
                fidelity = measure_fidelity(run_all(engine.run, gate.images), wanted, gate.truths, len(run.input.classes))
                held = all(held for *_, held in judged(fidelity, settings.allowed))
                found.append(
                    Candidate(
                        name,
                        engine.name,
                        precision,
                        path.stat().st_size,
                        count_flops(model),
                        _timings(engine.run, gate, threads, seconds),
                        peak_memory(
                            _ONE_CALL,
                            str(path),
                            engine.name,
                            str(run.input.size),
                            str(run.input.channels),
                            run.input.dtype,
                            torch=False,
                        ),
                        fidelity,
                        held,
                    )
                )
        result = Comparison(gate.source, tuple(found), *recommend(found))
        write_text(folder / PAGE_FILE, comparison_page(result, settings.allowed))
        write_json(folder / RESULT_FILE, {"schema": COMPARISON_SCHEMA} | result.as_dict())
    return result


def _made(folder: Path) -> set[str] | None:
    return {RESULT_FILE, PAGE_FILE} if schema_of(folder / RESULT_FILE) == COMPARISON_SCHEMA else None


COMPARISON_FOLDER = Kind(f"a folder of compare ({RESULT_FILE})", _made)


def _ways(strategy: str, model: Path, run: Run, data: Path, threads: int) -> list[tuple[str, Engine, str, Path]]:
    """(name, engine, precision, file) of each way this machine can run the strategy's graph."""
    ways: list[tuple[str, Engine, str, Path]] = [(f"{strategy}, fp32", OnnxRuntimeEngine(model, "cpu", threads), "fp32", model)]
    for precision, convert in (
        ("int8", lambda path: to_int8(path, learning_images(run, data, count=CALIBRATION_IMAGES))),
        ("fp16", to_fp16),
    ):
        path = model.parent / precision / MODEL_FILE
        path.parent.mkdir()
        shutil.copy(model, path)
        convert(path)
        ways.append((f"{strategy}, {precision}", OnnxRuntimeEngine(path, "cpu", threads), precision, path))
    try:
        ways.append((f"{strategy}, f32 in OpenVINO", OpenVinoEngine(model, "f32", threads), "fp32", model))
        if has_bf16():
            ways.append((f"{strategy}, bf16 in OpenVINO", OpenVinoEngine(model, "bf16", threads), "bf16", model))
    except MissingExtraError as error:
        log.warning("OpenVINO is left out: %s", error)
    return ways


def _eager(
    folder: Path, run: Run, ensemble: Ensemble, gate: GateImages, wanted: Outputs, threads: int, seconds: float
) -> Candidate:
    """The ensemble in PyTorch, as trained. Its own Dice is that of a comparison with itself."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        timings = _timings(eager_ensemble(ensemble), gate, torch.get_num_threads(), seconds)
    finally:
        torch.set_num_threads(before)
    weights = sum((folder / level.weights).stat().st_size for level in run.levels)
    flops = sum(2 * count for count in multiply_adds(ensemble))
    return Candidate(
        EAGER,
        "pytorch",
        "fp32",
        weights,
        flops,
        timings,
        peak_memory(_ONE_EAGER_CALL, str(folder), torch=True),
        measure_fidelity(wanted, wanted, gate.truths, len(run.input.classes)),
        True,
    )


def multiply_adds(ensemble: Ensemble) -> list[int]:
    """Of each convolution for one image, counted as it runs."""
    counts: list[int] = []

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        assert isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d), "hooked on these alone"
        pixels = inputs[0] if isinstance(module, torch.nn.ConvTranspose2d) else output
        counts.append(module.weight.numel() * pixels.shape[-1] * pixels.shape[-2])

    hooks = [
        m.register_forward_hook(count) for m in ensemble.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        ensemble(torch.zeros(1, ensemble.spec.channels, ensemble.spec.size, ensemble.spec.size))
    for hook in hooks:
        hook.remove()
    return counts


def _timings(call: Callable[[np.ndarray], Outputs], gate: GateImages, threads: int, seconds: float) -> dict[int, Timing]:
    """Batches are made of the gate's images, over and over."""
    batches = {size: np.resize(gate.images, (size, *gate.images.shape[1:])) for size in BATCHES}
    return {size: time_calls(partial(call, batch), size, threads, seconds) for size, batch in batches.items()}


_ONE_CALL = """
import sys
import numpy as np
from pathlib import Path
model, name, size, channels = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
if name.startswith("openvino"):
    from gazeseg_serve.engines.openvino import OpenVinoEngine
    engine = OpenVinoEngine(model, name.removeprefix("openvino-"))
else:
    from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
    engine = OnnxRuntimeEngine(model, "cpu")
engine.run(np.full((1, size, size, channels), 90, sys.argv[5]))
"""
_ONE_EAGER_CALL = """
import sys
import numpy as np
from pathlib import Path
from gazeseg_serve.training.networks.ensemble import load_ensemble
from gazeseg_serve.export.parity import eager_ensemble
run, ensemble = load_ensemble(Path(sys.argv[1]))
eager_ensemble(ensemble)(np.full((1, run.input.size, run.input.size, run.input.channels), 90, run.input.dtype))
"""
