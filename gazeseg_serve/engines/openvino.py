"""OpenVINO on the CPU: the engine that pays where the CPU has bf16 arithmetic."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .. import cpus
from ..errors import EngineError, require
from .base import Outputs

_HINTS = {"f32": "f32", "bf16": "bf16"}


class OpenVinoEngine:
    """Runs the model file at `model`. precision: "f32", or "bf16" (EngineError where the CPU has none).

    threads: CPU threads inside one call, 0 = as many as CPUs may be used here. Raises EngineError or MissingExtraError.
    """

    def __init__(self, model: Path, precision: str = "f32", threads: int = 0) -> None:
        if precision not in _HINTS:
            raise EngineError(f"unknown precision {precision!r} for OpenVINO; known: {', '.join(_HINTS)}")
        os.environ.setdefault("OPENVINO_TELEMETRY", "0")
        ov = require("openvino", "openvino")
        core = ov.Core()
        if precision == "bf16" and not has_bf16():
            raise EngineError("this CPU has no bf16 arithmetic; use an artifact of another precision, or --device cpu")
        self.threads = threads or cpus.available()
        settings = {"INFERENCE_PRECISION_HINT": _HINTS[precision], "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        settings["INFERENCE_NUM_THREADS"] = str(self.threads)
        try:
            compiled = core.compile_model(core.read_model(model), "CPU", settings)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot run {model}: {str(error).splitlines()[0]}") from error
        self._request = compiled.create_infer_request()
        declared = {"probability", "disagreement"}  # an output may carry inner names beside its own
        self._names = [next(iter(declared & set(output.get_names())), "") for output in compiled.outputs]
        self._bf16 = precision == "bf16"
        self.name = f"openvino-{precision}"

    def run(self, batch: np.ndarray) -> Outputs:
        if self._bf16 and batch.dtype == np.float32:
            batch = _centred(batch)
        found = self._request.infer({"image": np.ascontiguousarray(batch)})
        values = {name: np.array(value) for name, value in zip(self._names, found.values(), strict=True)}
        return Outputs(values["probability"], values.get("disagreement"))


def _centred(batch: np.ndarray) -> np.ndarray:
    """float32 `(B, H, W, C)`, z-scored, which the graph does again and to the same end: its own first step would round to
    bf16, of 8 bits, before it has taken the mean away."""
    centred = batch - batch.mean(axis=(1, 2), keepdims=True, dtype=np.float64)
    deviation = np.sqrt(np.square(centred).mean(axis=(1, 2), keepdims=True))
    return np.asarray(centred / np.where(deviation > 0, deviation, 1), np.float32)


def has_bf16() -> bool:
    """Whether this CPU computes in bf16. Raises MissingExtraError."""
    return "BF16" in require("openvino", "openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
