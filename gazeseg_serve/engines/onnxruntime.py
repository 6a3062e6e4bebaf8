"""ONNX Runtime on the CPU, or through its CUDA and TensorRT providers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineError, require
from .base import Outputs

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class OnnxRuntimeEngine:
    """Runs the model file at `model`. Raises EngineError where the provider asked for is not the one that runs.

    On a CPU `run` may be called by several threads.

    lanes: on a CPU, one image is computed by all threads together, but several go to one thread each: threads that need
    not wait for one another after every layer do more. Both ways give the same bits. The gate of an export, which
    asks what the graph makes of a batch, leaves it off.
    """

    def __init__(self, model: Path, device: str = "auto", threads: int = 0, lanes: bool = False) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it contacts its maker otherwise; read at import
        ort = require("onnxruntime", "gpu" if device in ("cuda", "tensorrt") else "cpu")
        available = ort.get_available_providers()
        if device == "auto":
            device = "cuda" if _PROVIDERS["cuda"] in available else "cpu"
        wanted = _PROVIDERS[device]
        if wanted not in available:
            raise EngineError(
                f"device {device} needs {wanted}, but onnxruntime here has {', '.join(available)}; "
                "install onnxruntime-gpu in place of onnxruntime: pip uninstall onnxruntime; "
                "pip install 'gazeseg-serve[gpu]'"
            )
        providers = [wanted] if device == "cpu" else [wanted, _PROVIDERS["cpu"]]
        self._errors = _errors(ort)
        try:
            self._session = _session(ort, model, providers, threads)
        except self._errors as error:
            raise EngineError(f"onnxruntime cannot run {model}: {_line(error)}") from error
        running = self._session.get_providers()
        if running[0] != wanted:
            raise EngineError(
                f"device {device}: onnxruntime fell back to {running[0]}; the driver or CUDA libraries "
                "do not match onnxruntime-gpu"
            )
        self._names = [output.name for output in self._session.get_outputs()]
        self.name = f"onnxruntime-{device}"
        count = (threads or os.cpu_count() or 1) if lanes and device == "cpu" else 1
        self._lanes = ThreadPoolExecutor(count, thread_name_prefix="engine-lane") if count > 1 else None
        self._lane_session = _session(ort, model, providers, 1) if count > 1 else self._session

    def run(self, batch: np.ndarray) -> Outputs:
        try:
            values = self._run(batch)
        except self._errors as error:
            raise EngineError(f"onnxruntime failed: {_line(error)}") from error
        named = dict(zip(self._names, values, strict=True))
        return Outputs(named["probability"], named.get("disagreement"))

    def _run(self, batch: np.ndarray) -> Sequence[np.ndarray]:
        if self._lanes is None or len(batch) == 1:
            return self._session.run(self._names, {"image": batch})
        images = [{"image": batch[i : i + 1]} for i in range(len(batch))]
        each = self._lanes.map(lambda image: self._lane_session.run(self._names, image), images)
        return [np.concatenate(parts) for parts in zip(*each, strict=True)]


def _errors(ort: Any) -> tuple[type[Exception], ...]:
    """onnxruntime's own exceptions, which have no base but Exception."""
    state = ort.capi.onnxruntime_pybind11_state
    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _session(ort: Any, model: Path, providers: list[str], threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin between calls steal cores from decoding and encoding beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=providers)
