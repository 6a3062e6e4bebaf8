"""Which engine a device name means."""

from __future__ import annotations

from pathlib import Path

from ..contract import Artifact
from ..errors import EngineError
from .base import Engine

DEVICES = ("auto", "cpu", "cuda", "tensorrt", "onnxruntime-tensorrt", "openvino")


def open_engine(folder: Path, artifact: Artifact, device: str = "auto", threads: int = 0) -> Engine:
    """Start the engine for `device`; `auto` takes CUDA where onnxruntime finds a GPU, else the CPU.

    openvino runs on the CPU, in bf16 where the artifact was proven in bf16, else in f32: no engine computes at a
    precision that the gate has not seen. tensorrt runs the artifact's plan, or builds one where that is of another GPU or
    version; onnxruntime-tensorrt is ONNX Runtime's own use of TensorRT.
    threads: CPU threads inside one call, 0 = as many as CPUs may be used here. Raises EngineError or MissingExtraError.
    """
    if device not in DEVICES:
        raise EngineError(f"unknown device {device!r}; known: {', '.join(DEVICES)}")
    if device == "openvino":
        from .openvino import OpenVinoEngine

        return OpenVinoEngine(folder / artifact.model, "bf16" if artifact.precision == "bf16" else "f32", threads)
    if device == "tensorrt":
        from .tensorrt import TensorRtEngine
        from .tensorrt_plan import plan_of

        return TensorRtEngine(plan_of(folder, artifact), artifact.input.dtype)
    from .onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine(folder / artifact.model, device.removeprefix("onnxruntime-"), threads, lanes=True)
