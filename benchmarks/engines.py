"""What an export buys on this CPU: one image, uint8 pixels to probabilities, every engine with the same threads.

    python benchmarks/engines.py [--seconds 6] [--threads 0] [--widths 16,8]

The yardstick is the method's ensemble as released, two 64-wide UNets with group norm at 224 px, in eager PyTorch and
without LPP, which inference does not need. Against it: the same two fused into one graph, in ONNX Runtime; one ONNX
Runtime session for each of the two, run in turn; students with batch norm at 224 px in ONNX Runtime (fp32, int8) and
OpenVINO (f32, bf16); and the package's own model. Weights are random but for that model: time does not depend on their
values, and whether a student is good enough the export's gate says, not this file. Rounds go through all engines in
turn, so that a busy moment strikes all alike. Medians of one run; ratios are of medians; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gazeseg_serve.contract import Artifact, InputSpec
from gazeseg_serve.default_model import default_artifact
from gazeseg_serve.engine import Outputs
from gazeseg_serve.engine_onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engine_openvino import OpenVinoEngine, has_bf16
from gazeseg_serve.export.bench import matrix_ceiling, predict_memory
from gazeseg_serve.export.distill import StudentGraph
from gazeseg_serve.export.flops import count_flops
from gazeseg_serve.export.fuse import FusedEnsemble
from gazeseg_serve.export.onnx_graph import write_onnx
from gazeseg_serve.export.parity import eager_ensemble
from gazeseg_serve.export.quantize import to_int8
from gazeseg_serve.export.single import alone
from gazeseg_serve.training.ensemble import Ensemble
from gazeseg_serve.training.unet import Architecture, seeded_unet

Runner = Callable[[np.ndarray], Outputs]


def method_engines(folder: Path, spec: InputSpec, threads: int) -> tuple[dict[str, Runner], dict[str, int]]:
    """The two 64-wide networks: eager, eager channels-last, fused, and a session each."""
    ensemble = Ensemble(Architecture(64, "group"), spec, seeds=(0, 1)).eval()
    fused, sessions = folder / "fused.onnx", []
    write_onnx(FusedEnsemble(ensemble), spec, True, fused)
    for i, network in enumerate(ensemble.networks):
        path = folder / f"level_{i}.onnx"
        write_onnx(FusedEnsemble(alone(ensemble, network)), spec, False, path)
        sessions.append(OnnxRuntimeEngine(path, "cpu", threads))
    graph = OnnxRuntimeEngine(fused, "cpu", threads)

    def in_turn(batch: np.ndarray) -> Outputs:
        """The mean logit and the deviation, as the fused graph gives them."""
        each = np.stack([session.run(batch).probability for session in sessions])
        logit = np.log(each / (1 - each)).mean(axis=0)
        return Outputs(1 / (1 + np.exp(-logit)), each.std(axis=0)[:, 0])

    last = Ensemble(Architecture(64, "group"), spec, seeds=(0, 1)).eval().to(memory_format=torch.channels_last)
    runners = {"eager": eager_ensemble(ensemble), "eager, channels-last": eager_ensemble(last),
               "fused, ONNX Runtime": graph.run, "two sessions in turn": in_turn}
    return runners, dict.fromkeys(runners, count_flops(fused))


def student_engines(folder: Path, width: int, spec: InputSpec, threads: int) -> tuple[dict[str, Runner], dict[str, int]]:
    student = seeded_unet(Architecture(width, "batch", outputs=2), 0).eval()
    plain, small = folder / f"student_{width}.onnx", folder / f"student_{width}_int8.onnx"
    write_onnx(StudentGraph(student, spec), spec, True, plain)
    small.write_bytes(plain.read_bytes())
    to_int8(small, np.random.default_rng(0).integers(0, 256, (8, spec.size, spec.size, 3), dtype=np.uint8))
    runners = file_engines(f"student {width}", plain, threads)
    runners[f"student {width}, ONNX Runtime int8"] = OnnxRuntimeEngine(small, "cpu", threads).run
    return runners, dict.fromkeys(runners, count_flops(plain))


def file_engines(name: str, model: Path, threads: int) -> dict[str, Runner]:
    runners = {f"{name}, ONNX Runtime fp32": OnnxRuntimeEngine(model, "cpu", threads).run,
               f"{name}, OpenVINO f32": OpenVinoEngine(model, "f32", threads).run}
    if has_bf16():
        runners[f"{name}, OpenVINO bf16"] = OpenVinoEngine(model, "bf16", threads).run
    return runners


def in_rounds(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Seconds of each call, in rounds over all of them, until `seconds` for each on average; at least 7 rounds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    end = time.perf_counter() + seconds * len(calls)
    while len(next(iter(times.values()))) < 7 or time.perf_counter() < end:
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            first = time.perf_counter() - start
            # A short call is repeated within the round, or the rounds of the long ones would decide how often it is timed.
            repeats = max(1, min(20, int(0.05 / first)))
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            times[name].append((time.perf_counter() - start) / repeats)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as PyTorch takes, one a core")
    parser.add_argument("--widths", default="16,8")
    options = parser.parse_args()
    threads = options.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    spec = InputSpec(224)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        runners, flops = method_engines(Path(temporary), spec, threads)
        for width in map(int, options.widths.split(",")):
            more, work = student_engines(Path(temporary), width, spec, threads)
            runners |= more
            flops |= work
        image = rng.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
        calls: dict[str, Callable[[], object]] = {name: (lambda r=run: r(image)) for name, run in runners.items()}
        folder = default_artifact()
        own = Artifact.load(folder)
        small = rng.integers(0, 256, (1, own.input.size, own.input.size, 3), dtype=np.uint8)
        name = f"the package's model ({own.input.size} px)"
        mine = file_engines(name, folder / own.model, threads)
        calls |= {key: (lambda r=run: r(small)) for key, run in mine.items()}
        flops |= dict.fromkeys(mine, count_flops(folder / own.model))
        a, b = runners["fused, ONNX Runtime"](image), runners["two sessions in turn"](image)
        assert np.abs(a.probability - b.probability).max() < 1e-3, "both compute the same"
        times = in_rounds(calls, options.seconds)
    ceiling = matrix_ceiling(threads)
    medians = {key: float(np.median(values)) for key, values in times.items()}
    eager = medians["eager"]
    print(f"{threads} thread(s); fp32 matrix product {ceiling / 1e9:.0f} GFLOP/s")
    print(f"{'engine':52} {'median ms':>10} {'p95 ms':>9} {'times eager':>12} {'GFLOP/s':>8} {'of ceiling':>10}")
    for key, value in medians.items():
        speed = flops[key] / value
        print(f"{key:52} {1000 * value:10.2f} {1000 * float(np.quantile(times[key], 0.95)):9.2f} {eager / value:12.1f} "
              f"{speed / 1e9:8.0f} {100 * speed / ceiling:9.0f}%")
    fused = medians["two sessions in turn"] / medians["fused, ONNX Runtime"]
    print(f"fused against two sessions in turn: {fused:.2f} times")
    memory = {device: predict_memory(folder, device) for device in ("cpu", "openvino")}
    print(f"peak memory of predicting with the package's model: {memory}")
    print(json.dumps({"threads": threads, "ceiling": ceiling, "medians": medians, "fused_against_sessions": fused,
                      "times_eager": {key: eager / value for key, value in medians.items()}, "peak_memory": memory,
                      "rounds": len(next(iter(times.values())))}))


if __name__ == "__main__":
    main()
