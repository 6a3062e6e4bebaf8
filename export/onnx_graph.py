"""A torch module to an ONNX file whose names and axes are those the contract declares."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import nn

from gazeseg_serve.contract import InputSpec, Tensor, graph_inputs, graph_outputs

OPSET = 20  # the newest that ONNX Runtime and TensorRT 10 both take
_TRACED_BATCH = 2  # a batch of 1 would be taken for a constant


def write_onnx(graph: nn.Module, spec: InputSpec, disagreement: bool, path: Path) -> None:
    """Trace `graph` (`(B, H, W, C)` of the InputSpec's dtype in, the declared outputs out) and write one self-contained file.

    The declaration drives tracing: names and dynamic axes come from `graph_inputs` and `graph_outputs`.
    """
    inputs, outputs = graph_inputs(spec), graph_outputs(spec, disagreement)
    example = torch.zeros((_TRACED_BATCH, spec.size, spec.size, spec.channels), dtype=getattr(torch, spec.dtype))
    batch = torch.export.Dim("batch", min=1, max=4096)
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            (example,),
            dynamo=True,
            external_data=False,
            opset_version=OPSET,
            verbose=False,
            input_names=[t.name for t in inputs],
            output_names=[t.name for t in outputs],
            dynamic_shapes=({0: batch},),
        )
        assert program is not None, "dynamo=True returns the program"
        model = program.model_proto
    # Traces of where each node came from name files of this machine; they do not belong into an artifact.
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.metadata_props[:]
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]:
        del value.metadata_props[:]
    drop_empty_pads(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def drop_empty_pads(graph: onnx.GraphProto) -> None:
    """Take out each Pad that adds nothing: BasicUNet pads before every concatenation, by zero pixels at our sizes."""
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Pad"]:
        pads = constants.get(node.input[1])
        if pads is None or pads.any():
            continue
        for user in graph.node:
            user.input[:] = [node.input[0] if name == node.output[0] else name for name in user.input]
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def declared(values: list[onnx.ValueInfoProto]) -> tuple[Tensor, ...]:
    """What the graph itself says of its inputs or outputs, in the contract's terms."""
    found = []
    for value in values:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
        axes = tuple(d.dim_param or d.dim_value for d in kind.shape.dim)
        found.append(Tensor(value.name, dtype, axes))
    return tuple(found)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress and warns of its own deprecations; neither is the user's business."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
