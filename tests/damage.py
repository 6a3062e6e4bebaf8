"""Ways in which an exported graph can be wrong, done to a file; and a stand-in for the slow trace."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from gazeseg_serve.contract import InputSpec


def change_first(model: Path, fits: Callable[[list[int]], bool], change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace the first stored tensor whose dimensions fit."""
    graph = onnx.load(model)
    tensor = next(t for t in graph.graph.initializer if fits(list(t.dims)))
    values = change(numpy_helper.to_array(tensor).copy()).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(graph, model)


def _reads_rgb(dims: list[int]) -> bool:
    return len(dims) == 4 and dims[1:] == [3, 3, 3]


def perturb_weight(model: Path) -> None:
    def change(values: np.ndarray) -> np.ndarray:
        values[0] += 2  # one filter; a tiny network that learned for three steps hardly notices one weight
        return values

    change_first(model, _reads_rgb, change)


def swap_channels(model: Path) -> None:
    """BGR in place of RGB."""
    change_first(model, _reads_rgb, lambda values: values[:, ::-1])


def scale_means(model: Path) -> None:
    """A wrong normalisation."""
    change_first(model, lambda dims: dims == [1, 3, 1, 1], lambda values: values * 1.2)


def kill_a_head(model: Path) -> None:
    """A dead level: its last convolution gives nothing."""
    change_first(
        model, lambda dims: len(dims) == 4 and dims[2:] == [1, 1] and dims[0] <= 2 and dims[1] > 3, lambda values: values * 0
    )


def rename_output(model: Path) -> None:
    graph = onnx.load(model)
    for node in graph.graph.node:
        node.output[:] = ["mask" if name == "probability" else name for name in node.output]
    graph.graph.output[0].name = "mask"
    onnx.save(graph, model)


def fix_batch(model: Path) -> None:
    graph = onnx.load(model)
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(graph, model)


def made_before(artifact: Path, damage: Callable[[Path], None] = lambda model: None) -> Callable[..., None]:
    """In place of `write_onnx`, which takes seconds: a graph of the same networks, damaged."""

    def write(graph: torch.nn.Module, spec: InputSpec, disagreement: bool, path: Path) -> None:
        shutil.copy(artifact / "model.onnx", path)
        damage(path)

    return write
