"""ONNX Runtime on the CPU, or through its CUDA and TensorRT providers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .. import cpus
from ..errors import EngineError, require
from ..progress import log
from .base import Outputs

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class OnnxRuntimeEngine:
    """Runs the model file at `model`. Raises EngineError where the provider asked for is not the one that runs.

    On a CPU `run` may be called by several threads.

    lanes: on a CPU, one image is computed by all threads together, but several go to one thread each: threads that need
    not wait for one another after every layer do more. Both ways give the same bits. The gate of an export, which
    asks what the graph makes of a batch, leaves it off.
    threads: CPU threads in one call, 0: as many as CPUs may be used here; `auto` goes on with the CPU, and says so in the
    log, where a GPU is offered and cannot be had.
    """

    def __init__(self, model: Path, device: str = "auto", threads: int = 0, lanes: bool = False) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it contacts its maker otherwise; read at import
        ort = require("onnxruntime", "gpu" if device in ("cuda", "tensorrt") else "cpu")
        self._errors = _errors(ort)
        self.threads = threads or cpus.available()
        found = "cuda" if device == "auto" and _PROVIDERS["cuda"] in ort.get_available_providers() else device
        found = "cpu" if found == "auto" else found
        try:
            self._session = self._start(ort, model, found)
        except EngineError as error:
            if device != "auto" or found == "cpu":
                raise
            # onnxruntime-gpu offers CUDA wherever it is installed, GPU or not.
            log.warning("%s; running on the CPU", error)
            found = "cpu"
            self._session = self._start(ort, model, found)
        self._names = [output.name for output in self._session.get_outputs()]
        self.name = f"onnxruntime-{found}"
        count = self.threads if lanes and found == "cpu" else 1
        self._lanes = ThreadPoolExecutor(count, thread_name_prefix="engine-lane") if count > 1 else None
        self._lane_session = _session(ort, model, [_PROVIDERS["cpu"]], 1) if count > 1 else self._session

    def _start(self, ort: Any, model: Path, device: str) -> Any:
        """A session that runs on `device`. Raises EngineError where it does not."""
        wanted, available = _PROVIDERS[device], ort.get_available_providers()
        if wanted not in available:
            raise EngineError(
                f"device {device} needs {wanted}, but onnxruntime here has {', '.join(available)}; "
                "install onnxruntime-gpu in place of onnxruntime: pip uninstall onnxruntime; "
                "pip install 'gazeseg-serve[gpu]'"
            )
        try:
            session = _session(ort, model, list(dict.fromkeys((wanted, _PROVIDERS["cpu"]))), self.threads)
        except self._errors as error:
            raise EngineError(f"onnxruntime cannot run {model} on {device}: {_line(error)}") from error
        running = session.get_providers()
        if running[0] != wanted:
            raise EngineError(
                f"device {device}: onnxruntime fell back to {running[0]}; there is no GPU, or the driver or CUDA libraries "
                "do not match onnxruntime-gpu"
            )
        return session

    def run(self, batch: np.ndarray) -> Outputs:
        return self._outputs(lambda: self._run(batch))

    def run_alone(self, image: np.ndarray, all_cpus: bool) -> Outputs:
        """One image `(H, W, C)`, B = 1 in what comes back; on a CPU by all threads together, or by the one that calls."""
        session = self._session if all_cpus else self._lane_session
        return self._outputs(lambda: session.run(self._names, {"image": image[None]}))

    def _outputs(self, run: Callable[[], Sequence[np.ndarray]]) -> Outputs:
        try:
            values = run()
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
