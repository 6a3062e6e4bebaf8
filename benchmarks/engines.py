"""What an export buys on this CPU: one image, uint8 pixels to probabilities, every engine with the same threads.

    python benchmarks/engines.py --graphs build/engines --prepare
    python benchmarks/engines.py --graphs build/engines --seconds 3 --out benchmarks/results/engines.json

The yardstick is the method's ensemble as released, two 64-wide UNets with group norm at 224 px, in eager PyTorch and
without LPP, which inference does not need. Against it: the same two fused into one graph, in ONNX Runtime and OpenVINO;
one ONNX Runtime session for each of the two, run in turn; two 64-wide networks whose norm folds away, which is what the
convolutions alone cost; students with batch norm at 224 px in ONNX Runtime (fp32, int8) and OpenVINO (f32, bf16), where
16/2 is width 16 with stride 2; and the package's own model. Weights are random but for that model: time does not depend
on their values, and whether a student is good enough the export's gate says, not this file. Rounds go through all
engines in turn, so that a busy moment strikes all alike; the machine's matrix product is measured before and after, and
the better of the two is the ceiling. Medians of one run; ratios are of medians; the last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gazeseg_serve.contract import Artifact, InputSpec
from gazeseg_serve.default_model import default_artifact
from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.openvino import OpenVinoEngine, has_bf16
from gazeseg_serve.export.bench import matrix_ceiling, predict_memory
from gazeseg_serve.export.flops import count_flops
from gazeseg_serve.export.fuse import FusedEnsemble
from gazeseg_serve.export.onnx_graph import write_onnx
from gazeseg_serve.export.parity import eager_ensemble
from gazeseg_serve.export.quantize import to_int8
from gazeseg_serve.export.single import alone
from gazeseg_serve.export.student_graph import StudentGraph
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble
from gazeseg_serve.training.networks.unet import seeded_unet

Runner = Callable[[np.ndarray], Outputs]


def made(path: Path, write: Callable[[Path], None]) -> Path:
    """`path`, written unless it is there already."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part.onnx")
        write(aside)
        aside.rename(path)
    return path


def method_engines(folder: Path, spec: InputSpec, threads: int) -> tuple[dict[str, Runner], dict[str, int]]:
    """The two 64-wide networks: eager, eager channels-last, fused, and a session each; and without normalisation."""
    ensemble = Ensemble(Architecture(64, "group"), spec, seeds=(0, 1)).eval()
    bare = Ensemble(Architecture(64, "batch"), spec, seeds=(0, 1)).eval()
    fused = made(folder / "fused.onnx", lambda path: write_onnx(FusedEnsemble(ensemble), spec, True, path))
    folded = made(folder / "folded.onnx", lambda path: write_onnx(FusedEnsemble(bare), spec, True, path))
    each = [FusedEnsemble(alone(ensemble, network)) for network in ensemble.networks]
    levels = [
        made(folder / f"level_{i}.onnx", lambda path, m=module: write_onnx(m, spec, False, path))
        for i, module in enumerate(each)
    ]
    sessions = [OnnxRuntimeEngine(path, "cpu", threads) for path in levels]

    def in_turn(batch: np.ndarray) -> Outputs:
        """The mean logit and the deviation, as the fused graph gives them."""
        each = np.stack([session.run(batch).probability for session in sessions])
        logit = np.log(each / (1 - each)).mean(axis=0)
        return Outputs(1 / (1 + np.exp(-logit)), each.std(axis=0)[:, 0])

    last = Ensemble(Architecture(64, "group"), spec, seeds=(0, 1)).eval().to(memory_format=torch.channels_last)
    runners = {
        "eager": eager_ensemble(ensemble),
        "eager, channels-last": eager_ensemble(last),
        "two sessions in turn": in_turn,
        "fused, ONNX Runtime": OnnxRuntimeEngine(fused, "cpu", threads).run,
        "fused, OpenVINO f32": OpenVinoEngine(fused, "f32", threads).run,
        "fused, norm folded away, ONNX Runtime": OnnxRuntimeEngine(folded, "cpu", threads).run,
    }
    if has_bf16():
        runners["fused, OpenVINO bf16"] = OpenVinoEngine(fused, "bf16", threads).run
    return runners, dict.fromkeys(runners, count_flops(fused))


def student_engines(folder: Path, name: str, spec: InputSpec, threads: int) -> tuple[dict[str, Runner], dict[str, int]]:
    """name: a width, or width/stride."""
    width, _, stride = name.partition("/")
    student = seeded_unet(Architecture(int(width), "batch", outputs=2, stride=int(stride or 1)), 0).eval()
    stem = f"student_{width}_{stride or 1}"
    plain = made(folder / f"{stem}.onnx", lambda path: write_onnx(StudentGraph(student, spec), spec, True, path))

    def quantised(path: Path) -> None:
        path.write_bytes(plain.read_bytes())
        to_int8(path, np.random.default_rng(0).integers(0, 256, (8, spec.size, spec.size, 3), dtype=np.uint8))

    small = made(folder / f"{stem}_int8.onnx", quantised)
    runners = file_engines(f"student {name}", plain, threads)
    runners[f"student {name}, ONNX Runtime int8"] = OnnxRuntimeEngine(small, "cpu", threads).run
    return runners, dict.fromkeys(runners, count_flops(plain))


def file_engines(name: str, model: Path, threads: int) -> dict[str, Runner]:
    runners = {
        f"{name}, ONNX Runtime fp32": OnnxRuntimeEngine(model, "cpu", threads).run,
        f"{name}, OpenVINO f32": OpenVinoEngine(model, "f32", threads).run,
    }
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
    parser.add_argument("--graphs", type=Path, default=Path("build/engines"), help="folder of the graphs")
    parser.add_argument("--prepare", action="store_true", help="write the graphs and stop")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as PyTorch takes, one a core")
    parser.add_argument("--students", default="16,8,16/2,8/2", help="widths, or width/stride")
    parser.add_argument("--out", type=Path, help="file for the JSON")
    options = parser.parse_args()
    threads = options.threads or torch.get_num_threads()
    torch.set_num_threads(threads)
    spec = InputSpec(224)
    rng = np.random.default_rng(0)
    runners, flops = method_engines(options.graphs, spec, threads)
    for name in options.students.split(","):
        more, work = student_engines(options.graphs, name, spec, threads)
        runners |= more
        flops |= work
    if options.prepare:
        return
    image = rng.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    calls: dict[str, Callable[[], object]] = {name: (lambda r=run: r(image)) for name, run in runners.items()}
    folder = default_artifact()
    own = Artifact.load(folder)
    small = rng.integers(0, 256, (1, own.input.size, own.input.size, 3), dtype=np.uint8)
    mine = file_engines(f"the package's model ({own.input.size} px)", folder / own.model, threads)
    calls |= {key: (lambda r=run: r(small)) for key, run in mine.items()}
    flops |= dict.fromkeys(mine, count_flops(folder / own.model))
    a, b = runners["fused, ONNX Runtime"](image), runners["two sessions in turn"](image)
    assert np.abs(a.probability - b.probability).max() < 1e-3, "both compute the same"
    ceiling = matrix_ceiling(threads)
    times = in_rounds(calls, options.seconds)
    ceiling = max(ceiling, matrix_ceiling(threads))
    memory = {device: predict_memory(folder, device) for device in ("cpu", "openvino")}
    report(times, flops, ceiling, memory, threads, options.out)


def report(
    times: dict[str, list[float]],
    flops: dict[str, int],
    ceiling: float,
    memory: dict[str, int | None],
    threads: int,
    out: Path | None,
) -> None:
    medians = {key: float(np.median(values)) for key, values in times.items()}
    eager, sessions = medians["eager"], medians["two sessions in turn"]
    print(f"{threads} thread(s); fp32 matrix product {ceiling / 1e9:.0f} GFLOP/s")
    print(f"{'engine':52} {'median ms':>10} {'p95 ms':>9} {'times eager':>12} {'GFLOP/s':>8} {'of ceiling':>10}")
    for key, value in medians.items():
        speed = flops[key] / value
        print(
            f"{key:52} {1000 * value:10.2f} {1000 * float(np.quantile(times[key], 0.95)):9.2f} {eager / value:12.1f} "
            f"{speed / 1e9:8.0f} {100 * speed / ceiling:9.0f}%"
        )
    bound = sessions * ceiling / flops["two sessions in turn"]
    print(
        f"fused against two sessions in turn: {sessions / medians['fused, ONNX Runtime']:.2f} times in fp32; a graph whose "
        f"convolutions ran at the ceiling, and all else in no time, would be {bound:.2f} times"
    )
    print(f"peak memory of predicting with the package's model: {memory}")
    found = {
        "threads": threads,
        "cpu": cpu_name(),
        "ceiling": ceiling,
        "rounds": len(next(iter(times.values()))),
        "fused_against_sessions": {key: sessions / value for key, value in medians.items() if key.startswith("fused")},
        "fused_bound": bound,
        "peak_memory": memory,
        "engines": {
            key: {
                "median": value,
                "p95": float(np.quantile(times[key], 0.95)),
                "times_eager": eager / value,
                "flops": flops[key],
                "share_of_ceiling": flops[key] / value / ceiling,
            }
            for key, value in medians.items()
        },
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0] if names else 'unknown'}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
