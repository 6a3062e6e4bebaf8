"""The arithmetic of a graph, counted from its file."""

from __future__ import annotations

import math
from pathlib import Path

import onnx


def count_flops(model: Path) -> int:
    """Floating or integer operations of the convolutions for one image: 2 a multiply-add; the rest is not counted.

    A convolution does (stored weights) x (output pixels) multiply-adds, a transposed one (stored weights) x (input
    pixels). Weights behind a DequantizeLinear count as those of the convolution.
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load(model), data_prop=True).graph
    sizes = {tensor.name: math.prod(tensor.dims) for tensor in graph.initializer}
    sizes |= {
        node.output[0]: sizes[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in sizes
    }
    # Casts of weights, as an fp16 graph has them, count alike.
    sizes |= {node.output[0]: sizes[node.input[0]] for node in graph.node if node.op_type == "Cast" and node.input[0] in sizes}
    shapes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*graph.value_info, *graph.input, *graph.output]
    }
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += 2 * sizes[node.input[1]] * math.prod(shapes[node.output[0]][2:])
        if node.op_type == "ConvTranspose":
            total += 2 * sizes[node.input[1]] * math.prod(shapes[node.input[0]][2:])
    return total
