"""How fast an artifact is on this machine, beside what the machine can do in the same run. Loads no torch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from gazeseg_serve import cpus
from gazeseg_serve.contract import Artifact
from gazeseg_serve.engines.open import open_engine
from gazeseg_serve.errors import ConfigError, EngineError, require
from gazeseg_serve.progress import log

from .flops import count_flops

_WARM_UP, _ROUNDS = 3, 10  # calls that are not timed; calls that are timed at least
_MATRIX, _COPY_BYTES = 1536, 2**27


@dataclass(frozen=True)
class Timing:
    """One setting: median and 95th percentile of the seconds a call takes, over `calls`."""

    batch: int
    threads: int
    calls: int
    median: float
    p95: float

    @property
    def images_per_second(self) -> float:
        return self.batch / self.median


@dataclass(frozen=True)
class Bench:
    """flops: of the convolutions, an image. ceiling: FLOP/s of a fp32 matrix product in ONNX Runtime, by threads.

    copy_bandwidth: bytes read and written a second by one thread. peak_memory: bytes of a process that predicts one
    image, None where it cannot be told.
    """

    artifact: str
    precision: str
    engine: str
    size: int
    file_bytes: int
    flops: int
    timings: tuple[Timing, ...]
    ceiling: dict[int, float]
    copy_bandwidth: float
    peak_memory: int | None

    def share(self, timing: Timing) -> float:
        """Of the fp32 ceiling with as many threads; above 1 is possible for bf16 and int8 alone."""
        return self.flops * timing.images_per_second / self.ceiling[timing.threads]

    def as_dict(self) -> dict[str, object]:
        facts = dataclasses.asdict(self)
        facts["timings"] = [
            dataclasses.asdict(t) | {"images_per_second": t.images_per_second, "share": self.share(t)} for t in self.timings
        ]
        return facts

    def lines(self) -> list[str]:
        memory = "not told" if self.peak_memory is None else f"{self.peak_memory / 2**20:.0f} MiB"
        lines = [
            f"{self.engine}, {self.precision}, {self.size} x {self.size}: {self.file_bytes / 1e6:.2f} MB, "
            f"{self.flops / 1e9:.2f} GFLOP an image, peak memory of predicting {memory}",
            "ceiling: "
            + ", ".join(f"{value / 1e9:.0f} GFLOP/s with {threads} thread(s)" for threads, value in self.ceiling.items())
            + f", copy {self.copy_bandwidth / 1e9:.1f} GB/s",
            f"{'batch':>5} {'threads':>7} {'median ms':>10} {'p95 ms':>8} {'images/s':>9} {'of ceiling':>10}",
        ]
        return lines + [
            f"{t.batch:>5} {t.threads:>7} {1000 * t.median:>10.2f} {1000 * t.p95:>8.2f} "
            f"{t.images_per_second:>9.1f} {100 * self.share(t):>9.0f}%"
            for t in self.timings
        ]


def bench(
    folder: Path, device: str = "auto", batches: Sequence[int] = (1, 8), threads: Sequence[int] = (), seconds: float = 2.0
) -> Bench:
    """Time the artifact at every batch size and number of threads (default: one, and all that may be used), `seconds` each.

    The engine alone is timed, from pixels to probabilities. Raises ContractError, EngineError, ConfigError.
    """
    artifact = Artifact.load(folder)
    counts = tuple(threads) or tuple(dict.fromkeys((1, cpus.available())))
    if min((*counts, *batches)) < 1 or not seconds > 0:
        raise ConfigError("batches and threads are whole numbers from 1 up, seconds are above 0")
    spec = artifact.input
    timings, engine = [], None
    for count in counts:
        engine = open_engine(folder, artifact, device, count)
        for batch in batches:
            images = np.random.default_rng(0).integers(0, 256, (batch, spec.size, spec.size, spec.channels)).astype(spec.dtype)
            timings.append(time_calls(partial(engine.run, images), batch, count, seconds))
            log.info("batch %d, %d thread(s): %.2f ms", batch, count, 1000 * timings[-1].median)
    assert engine is not None, "there is at least one number of threads"
    ceiling = {count: matrix_ceiling(count, min(seconds, 1.0)) for count in counts}
    model = folder / artifact.model
    return Bench(
        artifact.id,
        artifact.precision,
        engine.name,
        spec.size,
        model.stat().st_size,
        count_flops(model),
        tuple(timings),
        ceiling,
        copy_bandwidth(),
        predict_memory(folder, device),
    )


def parse_counts(text: str) -> tuple[int, ...]:
    """ "1,8" -> (1, 8); "" -> (). ConfigError for anything else."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{text!r} is not a list of whole numbers; write 1,8 for instance") from None


def time_calls(call: Callable[[], object], batch: int, threads: int, seconds: float) -> Timing:
    """Call for `seconds` and at least ten times, after three calls that do not count."""
    for _ in range(_WARM_UP):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _ROUNDS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return Timing(batch, threads, len(times), float(np.median(times)), float(np.quantile(times, 0.95)))


def matrix_ceiling(threads: int, seconds: float = 1.0) -> float:
    """FLOP/s of a product of two fp32 matrices of side 1536 in ONNX Runtime: the median of `seconds` of calls."""
    ort = require("onnxruntime", "cpu")
    side = [_MATRIX, _MATRIX]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, side) for name in "ab"],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, side)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    a = np.random.default_rng(0).random(side, np.float32)
    return 2 * _MATRIX**3 / time_calls(lambda: session.run(None, {"a": a, "b": a}), 1, threads, seconds).median


def copy_bandwidth(seconds: float = 0.3) -> float:
    """Bytes a second that one thread reads and writes, copying 128 MiB."""
    source, target = np.ones(_COPY_BYTES, np.uint8), np.ones(_COPY_BYTES, np.uint8)
    return 2 * _COPY_BYTES / time_calls(lambda: np.copyto(target, source), 1, 1, seconds).median


_PREDICT = """
import json, sys
import numpy as np
from pathlib import Path
from gazeseg_serve.predictor import Predictor
predictor = Predictor.open(Path(sys.argv[1]), device=sys.argv[2])
predictor.predict(np.full((1024, 1280, predictor.spec.channels), 90, predictor.spec.dtype)).mask()
"""
# Not getrusage's figure: that one starts from the parent's, which may have loaded torch.
_TELL = """
import json, re, sys
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(json.dumps({"peak": int(peak[1]), "torch": "torch" in sys.modules}))
"""


def predict_memory(folder: Path, device: str = "auto") -> int | None:
    """Peak resident bytes of a fresh process that predicts one image of 1280 x 1024; None where the system cannot tell.

    Raises EngineError where that process fails or loads torch.
    """
    return peak_memory(_PREDICT, str(folder), device, torch=False)


def peak_memory(code: str, *arguments: str, torch: bool) -> int | None:
    """The largest resident size, in bytes, of a process of its own that runs Python `code`; None where there is no /proc.

    Raises EngineError where it fails, or loads torch although `torch` is False.
    """
    if not Path("/proc/self/status").exists():
        return None
    with tempfile.TemporaryDirectory() as elsewhere:  # so that it imports what is installed, not what lies around
        done = subprocess.run(
            [sys.executable, "-c", code + _TELL, *(str(Path(a).absolute()) if Path(a).exists() else a for a in arguments)],
            capture_output=True,
            text=True,
            cwd=elsewhere,
            check=False,
        )
    if done.returncode:
        raise EngineError(f"the process that measures memory failed: {done.stderr.strip().splitlines()[-1]}")
    facts = json.loads(done.stdout.splitlines()[-1])
    if facts["torch"] and not torch:
        raise EngineError("predicting loaded torch, which it must not")
    return 1024 * int(facts["peak"])
