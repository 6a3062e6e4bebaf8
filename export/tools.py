"""What traces a graph, converts it and opens it: the parts of an export that a test replaces, for the first takes seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.engines.base import Engine
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.engines.openvino import OpenVinoEngine

from .onnx_graph import write_onnx
from .quantize import to_fp16, to_int8


def open_model(model: Path, precision: str) -> Engine:
    """The engine the gate runs: the runtime that will serve a graph of this precision on a CPU."""
    return OpenVinoEngine(model, "bf16") if precision == "bf16" else OnnxRuntimeEngine(model, "cpu")


@dataclass(frozen=True)
class Tools:
    """trace writes the fp32 graph of a module; to_int8 and to_fp16 convert a file in place; open starts the gate's engine."""

    trace: Callable[[nn.Module, InputSpec, bool, Path], None] = write_onnx
    to_int8: Callable[[Path, np.ndarray], None] = to_int8
    to_fp16: Callable[[Path], None] = to_fp16
    open: Callable[[Path, str], Engine] = open_model
