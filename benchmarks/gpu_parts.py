"""The parts of benchmarks/gpu.py that ask engines, one function each; every part runs in a process of its own, gives a dict.

What a part cannot do on this machine it raises: the words become the page's. On a CPU (`Bench.device`) the same code is
rehearsed with ONNX Runtime's CPU provider and torch's CPU, at sizes that take seconds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.engines.base import Outputs

Run = Callable[[np.ndarray], Outputs]
# Largest difference of a probability from the fp32 ensemble's, eager on the CPU: the gate's own, and plan_of's for fp16.
TOLERANCE = {"fp32": 1e-3, "fp16": 0.1}


@dataclass(frozen=True)
class Bench:
    """device: cuda, or cpu for a rehearsal. folder: where graphs lie between parts. seconds: of each timing."""

    device: str
    folder: Path
    size: int = 224
    width: int = 64
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    clients: tuple[int, ...] = (1, 4, 16, 64)
    seconds: float = 1.0
    load_seconds: float = 4.0
    steps: int = 200

    @property
    def spec(self) -> InputSpec:
        return InputSpec(size=self.size, classes=("polyp",))

    def images(self, number: int) -> np.ndarray:
        """Smooth ones, whose pixels agree with their neighbours as those of photographs do."""
        coarse = np.random.default_rng(0).integers(0, 256, (number, self.size // 8, self.size // 8, 3))
        return np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8)


def ensemble_of(bench: Bench) -> Any:
    """Two UNets with random weights of one seed: as fast as trained ones."""
    from gazeseg_serve.training.networks.architecture import Architecture
    from gazeseg_serve.training.networks.ensemble import Ensemble

    return Ensemble(Architecture(bench.width, "group"), bench.spec, seeds=(0, 1)).eval()


def machine(bench: Bench) -> dict[str, Any]:
    import onnxruntime
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__, "cpus": os.cpu_count()}
    found["providers"] = onnxruntime.get_available_providers()
    if bench.device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no GPU here; nothing of a GPU can be measured")
        facts = torch.cuda.get_device_properties(0)
        found |= {"gpu": facts.name, "memory_mib": facts.total_memory >> 20, "capability": f"{facts.major}.{facts.minor}"}
    side, kinds = (4096 if bench.device == "cuda" else 256), {"fp32": torch.float32, "fp16": torch.float16}
    for name, kind in kinds.items():  # the limit that every share below is of: torch's own matrix product, TF32 off
        a = torch.rand(side, side, device=bench.device, dtype=kind)
        found[f"flops_{name}"] = 2 * side**3 / median_seconds(lambda a=a: a @ a, bench)
    return found


def graphs(bench: Bench) -> dict[str, Any]:
    """The fused ensemble in fp32 and fp16, one graph a level, and the ensemble's own answers, for the parts to come."""
    from gazeseg_serve.export.flops import count_flops
    from gazeseg_serve.export.fuse import FusedEnsemble
    from gazeseg_serve.export.onnx_graph import write_onnx
    from gazeseg_serve.export.parity import eager_ensemble
    from gazeseg_serve.export.quantize import to_fp16
    from gazeseg_serve.export.single import alone

    ensemble, folder, spec = ensemble_of(bench), bench.folder, bench.spec
    folder.mkdir(parents=True, exist_ok=True)
    write_onnx(FusedEnsemble(ensemble), spec, True, folder / "fp32.onnx")
    (folder / "fp16.onnx").write_bytes((folder / "fp32.onnx").read_bytes())
    to_fp16(folder / "fp16.onnx")
    for index, network in enumerate(ensemble.networks):
        write_onnx(FusedEnsemble(alone(ensemble, network)), spec, False, folder / f"level_{index}.onnx")
    answer = eager_ensemble(ensemble)(bench.images(3))
    np.save(folder / "right.npy", answer.probability)
    return {"flops_an_image": count_flops(folder / "fp32.onnx")}


def provider(bench: Bench, name: str, precision: str) -> dict[str, Any]:
    """ONNX Runtime with one provider, input and output bound to the device's memory."""
    import onnxruntime as ort

    wanted = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}[name]
    if wanted not in ort.get_available_providers():
        raise RuntimeError(f"onnxruntime here has no {wanted}; install onnxruntime-gpu in its place")
    before, started = memory_mib(bench), time.perf_counter()
    settings = _profile(bench, precision) if name == "tensorrt" else {}
    session = ort.InferenceSession(bench.folder / f"{precision}.onnx", providers=[(wanted, settings)])
    if session.get_providers()[0] != wanted:
        raise RuntimeError(f"onnxruntime fell back to {session.get_providers()[0]}: {wanted} does not start here")
    where = "cpu" if name == "cpu" else "cuda"
    names = [output.name for output in session.get_outputs()]

    def bound(batch: np.ndarray) -> Any:
        binding = session.io_binding()
        binding.bind_ortvalue_input("image", ort.OrtValue.ortvalue_from_numpy(batch, where, 0))
        for output in names:
            binding.bind_output(output, where)
        return binding

    def run(batch: np.ndarray) -> Outputs:
        binding = bound(batch)
        session.run_with_iobinding(binding)
        values = dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))
        return Outputs(values["probability"], values.get("disagreement"))

    def resident(batch: np.ndarray) -> Callable[[], object]:
        """A run whose input is on the device already and whose output stays there."""
        binding = bound(batch)

        def once() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return once

    found = timed(bench, run, precision, started) | {"memory_mib": memory_mib(bench) - before}
    batch = bench.images(bench.batches[-1])
    found["resident_images_per_second"] = round(len(batch) / median_seconds(resident(batch), bench), 1)
    return found


def _profile(bench: Bench, precision: str) -> dict[str, str]:
    """One engine for all batch sizes: without it the provider builds another, for minutes, at every new one."""
    shapes = {"min": 1, "opt": min(8, bench.batches[-1]), "max": bench.batches[-1]}
    found = {f"trt_profile_{k}_shapes": f"image:{n}x{bench.size}x{bench.size}x3" for k, n in shapes.items()}
    return found | {"trt_fp16_enable": str(precision == "fp16")}


def plan(bench: Bench, precision: str) -> dict[str, Any]:
    """A native TensorRT plan."""
    from gazeseg_serve.engines.tensorrt import TensorRtEngine
    from gazeseg_serve.engines.tensorrt_plan import build_plan, this_machine

    before, started = memory_mib(bench), time.perf_counter()
    engine = TensorRtEngine(build_plan(bench.folder / f"{precision}.onnx", precision, this_machine()), "uint8")
    return timed(bench, engine.run, precision, started) | {"memory_mib": memory_mib(bench) - before}


def eager(bench: Bench, precision: str, compiled: bool) -> dict[str, Any]:
    """PyTorch as it is, or through torch.compile; fp16 by autocast. Images go to the device and answers come back."""
    import torch

    before, started = memory_mib(bench), time.perf_counter()
    ensemble = ensemble_of(bench).to(bench.device)
    network = torch.compile(ensemble) if compiled else ensemble

    @torch.inference_mode()
    def run(batch: np.ndarray) -> Outputs:
        x = ensemble.normalise(torch.from_numpy(batch).to(bench.device).permute(0, 3, 1, 2).float())
        with torch.autocast(bench.device, torch.float16, enabled=precision == "fp16"):
            levels = network(x).float()
        return Outputs(
            levels.mean(dim=0).sigmoid().cpu().numpy(), levels.sigmoid().std(dim=0, correction=0)[:, 0].cpu().numpy()
        )

    return timed(bench, run, precision, started) | {"memory_mib": memory_mib(bench) - before}


def sessions(bench: Bench) -> dict[str, Any]:
    """One ONNX Runtime session a level, run in turn: what fusing is to beat."""
    from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine

    before, started = memory_mib(bench), time.perf_counter()
    each = [OnnxRuntimeEngine(path, bench.device) for path in sorted(bench.folder.glob("level_*.onnx"))]

    def run(batch: np.ndarray) -> Outputs:
        levels = np.stack([engine.run(batch).probability for engine in each])
        logit = np.log(levels / (1 - levels)).mean(axis=0)
        return Outputs(1 / (1 + np.exp(-logit)), levels.std(axis=0)[:, 0])

    return timed(bench, run, "fp32", started) | {"memory_mib": memory_mib(bench) - before}


def timed(bench: Bench, run: Run, precision: str, started: float) -> dict[str, Any]:
    """Parity at three images, warm-up since `started`, then milliseconds and images a second by batch size."""
    found = run(bench.images(3))
    warm = time.perf_counter() - started
    worst = float(np.abs(found.probability - np.load(bench.folder / "right.npy")).max())
    if not worst <= TOLERANCE[precision]:
        raise RuntimeError(f"it answers otherwise than the ensemble: {worst:.3g} apart, the limit is {TOLERANCE[precision]:g}")
    rows = {}
    for size in bench.batches:
        batch = bench.images(size)
        seconds = median_seconds(lambda batch=batch: run(batch), bench)
        rows[str(size)] = {"ms": round(1000 * seconds, 3), "images_per_second": round(size / seconds, 1)}
    return {"parity": worst, "warm_up_seconds": round(warm, 2), "batches": rows}


def median_seconds(call: Callable[[], object], bench: Bench) -> float:
    """Median seconds of a call, the device waited for."""

    def once() -> float:
        began = time.perf_counter()
        call()
        if bench.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter() - began

    for _ in range(3):
        once()
    times, end = [], time.perf_counter() + bench.seconds
    while time.perf_counter() < end or len(times) < 5:
        times.append(once())
    return statistics.median(times)


def memory_mib(bench: Bench) -> int:
    """What is used of the GPU's memory by all processes, or of this process's on a CPU."""
    if bench.device == "cuda":
        import torch

        free, whole = torch.cuda.mem_get_info()
        return (whole - free) >> 20
    import psutil

    return psutil.Process().memory_info().rss >> 20
