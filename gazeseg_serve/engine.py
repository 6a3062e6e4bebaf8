"""The seam to the inference runtimes: one method, `run(batch) -> Outputs`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from .contract import Artifact
from .errors import EngineError

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "onnxruntime-tensorrt", "openvino")


@dataclass(frozen=True)
class Outputs:
    """probability: float32 `(B, K, H, W)` in [0, 1]; disagreement: float32 `(B, H, W)` in [0, 0.5], or None."""

    probability: np.ndarray
    disagreement: np.ndarray | None = None


class Engine(Protocol):
    """`run` takes `(B, H, W, C)` of the InputSpec's size and dtype, any B >= 1. Not to be called by two threads."""

    name: str

    def run(self, batch: np.ndarray) -> Outputs: ...


def open_engine(folder: Path, artifact: Artifact, device: str = "auto", threads: int = 0) -> Engine:
    """Start the engine for `device`; `auto` takes CUDA where onnxruntime offers it, else the CPU.

    openvino runs on the CPU, in bf16 where the artifact was proven in bf16, else in f32: no engine computes at a
    precision that the gate has not seen. tensorrt runs the artifact's plan, or builds one where that is of another GPU or
    version; onnxruntime-tensorrt is ONNX Runtime's own use of TensorRT.
    threads: CPU threads inside one call, 0 = all cores. Raises EngineError or MissingExtraError.
    """
    if device not in DEVICES:
        raise EngineError(f"unknown device {device!r}; known: {', '.join(DEVICES)}")
    if device == "openvino":
        from .engine_openvino import OpenVinoEngine

        return OpenVinoEngine(folder / artifact.model, "bf16" if artifact.precision == "bf16" else "f32", threads)
    if device == "tensorrt":
        from .engine_tensorrt import TensorRtEngine
        from .tensorrt_plan import plan_of

        return TensorRtEngine(plan_of(folder, artifact), artifact.input.dtype)
    from .engine_onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(folder / artifact.model, device.removeprefix("onnxruntime-"), threads, lanes=True)


class FakeEngine:
    """For tests: the probability of a pixel is its mean value over 255, the disagreement zero. Keeps batch sizes."""

    name = "fake"

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def run(self, batch: np.ndarray) -> Outputs:
        self.batch_sizes.append(len(batch))
        probability = (batch.mean(axis=3, dtype=np.float64) / 255).astype(np.float32)
        return Outputs(probability[:, None], np.zeros_like(probability))
