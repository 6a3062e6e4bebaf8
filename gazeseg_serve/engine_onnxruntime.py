"""ONNX Runtime on the CPU, or through its CUDA and TensorRT providers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .engine import Outputs
from .errors import EngineError, require

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class OnnxRuntimeEngine:
    """Runs the model file at `model`. Raises EngineError where the provider asked for is not the one that runs."""

    def __init__(self, model: Path, device: str = "auto", threads: int = 0) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # it contacts its maker otherwise; read at import
        ort = require("onnxruntime", "gpu" if device in ("cuda", "tensorrt") else "cpu")
        available = ort.get_available_providers()
        if device == "auto":
            device = "cuda" if _PROVIDERS["cuda"] in available else "cpu"
        wanted = _PROVIDERS[device]
        if wanted not in available:
            raise EngineError(f"device {device} needs {wanted}, but onnxruntime here has {', '.join(available)}; "
                              "install onnxruntime-gpu in place of onnxruntime: pip uninstall onnxruntime; "
                              "pip install 'gazeseg-serve[gpu]'")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin between calls steal cores from decoding and encoding beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers = [wanted] if device == "cpu" else [wanted, _PROVIDERS["cpu"]]
        self._session = ort.InferenceSession(model, options, providers=providers)
        running = self._session.get_providers()
        if running[0] != wanted:
            raise EngineError(f"device {device}: onnxruntime fell back to {running[0]}; the driver or CUDA libraries "
                              "do not match onnxruntime-gpu")
        self._names = [output.name for output in self._session.get_outputs()]
        self.name = f"onnxruntime-{device}"

    def run(self, batch: np.ndarray) -> Outputs:
        values = dict(zip(self._names, self._session.run(self._names, {"image": batch}), strict=True))
        return Outputs(values["probability"], values.get("disagreement"))
