"""Lower precision of a finished graph: int8 by static quantisation, fp16 by conversion. Inputs and outputs stay as declared."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx

from gazeseg_serve.errors import ConfigError
from gazeseg_serve.files import write_bytes

CALIBRATION_IMAGES = 64
# fp32 in an fp16 graph: statistics (they overflow), and the activation; and what comes before the first convolution.
_KEEP_FP32 = [
    "Cast",
    "Sub",
    "Div",
    "ReduceMean",
    "InstanceNormalization",
    "GroupNormalization",
    "BatchNormalization",
    "Sigmoid",
    "Softmax",
    "Pow",
    "Sqrt",
]


def to_int8(model: Path, images: np.ndarray) -> None:
    """Replace the fp32 file `model` by one with QDQ pairs: weights int8 a channel, activations uint8 a tensor.

    images: `(N, size, size, C)`, from which the activations' ranges are taken (smallest and largest). The first
    and the last convolution stay fp32: one reads normalised pixels, the other writes logits; and so do depthwise ones, whose
    channels' ranges differ far too much for one scale a tensor (Nagel et al., ICCV 2019, section 4). Raises ConfigError for a
    graph without convolutions to quantise.
    """
    from onnxruntime import quantization

    whole_weights(model)  # those behind a cast would stay as they are
    graph = onnx.load(model)
    convolutions = [node.name for node in graph.graph.node if node.op_type == "Conv"]
    if len(convolutions) < 3 or not len(images):
        raise ConfigError("int8 needs a graph of at least three convolutions, and images to calibrate it with")
    out = model.with_suffix(".int8.onnx")
    with _quiet("onnxruntime", "root"):
        quantization.quantize_static(
            model,
            out,
            _Reader(images),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            op_types_to_quantize=["Conv", "LeakyRelu", "Relu", "Clip", "Add", "MaxPool", "Concat"],
            nodes_to_exclude=[*_ends(graph.graph), *_depthwise(graph.graph), *_shifts(graph.graph)],
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
    write_bytes(model, out.read_bytes())
    out.unlink()


def to_fp16(model: Path) -> None:
    """Replace the fp32 file `model` by one whose convolutions run in fp16; for GPUs, a CPU converts back and forth."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet("onnxruntime", "root"):
        graph = onnx.load(model)
        converted = convert_float_to_float16(
            graph, keep_io_types=True, op_block_list=_KEEP_FP32, node_block_list=_before_convolutions(graph.graph)
        )
    _drop_round_trips(converted.graph)
    _sort(converted.graph)
    del converted.graph.value_info[:]  # types of before; the checker infers them anew
    onnx.checker.check_model(converted, full_check=True)
    write_bytes(model, converted.SerializeToString())


def halve_weights(model: Path) -> None:
    """Store the convolutions' weights in the fp32 file `model` as float16, each behind a cast to float32: half the file.

    Engines cast once, when they load, and compute in float32 with the rounded weights. A tensor with values that float16
    cannot hold (above 65504) is left alone.
    """
    whole = onnx.load(model)
    graph = whole.graph
    weights = {node.input[1] for node in graph.node if node.op_type in ("Conv", "ConvTranspose")}
    casts = []
    for tensor in [tensor for tensor in graph.initializer if tensor.name in weights]:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            continue
        half = f"{tensor.name}_half"
        graph.initializer.remove(tensor)
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(onnx.helper.make_node("Cast", [half], [tensor.name], f"{half}_cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(whole, full_check=True)
    write_bytes(model, whole.SerializeToString())


def whole_weights(model: Path) -> None:
    """Undo `halve_weights` in the file `model`: the rounded weights, stored as float32 again. Other files stay as they are."""
    whole = onnx.load(model)
    graph = whole.graph
    halves = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.input[0] in halves]
    for cast in casts:
        half = halves[cast.input[0]]
        graph.initializer.remove(half)
        values = onnx.numpy_helper.to_array(half).astype(np.float32)
        graph.initializer.append(onnx.numpy_helper.from_array(values, cast.output[0]))
        graph.node.remove(cast)
    if casts:
        write_bytes(model, whole.SerializeToString())


def _before_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes between the image and the first convolutions: squares of 16-bit pixels overflow in fp16."""
    touched, found = {value.name for value in graph.input}, []
    for node in graph.node:
        if node.op_type != "Conv" and touched.intersection(node.input):
            touched.update(node.output)
            found.append(node.name)
    return found


def _drop_round_trips(graph: onnx.GraphProto) -> None:
    """Take out fp32 -> fp16 -> fp32: the conversion casts the input, and what each fp32 node gives, down and up again."""

    def casts_to(name: str, kind: int) -> bool:
        node = makers.get(name)
        return node is not None and node.op_type == "Cast" and node.attribute[0].i == kind

    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if casts_to(name, onnx.TensorProto.FLOAT) and casts_to(makers[name].input[0], onnx.TensorProto.FLOAT16):
                node.input[i] = makers[makers[name].input[0]].input[0]
    kept = {value.name for value in graph.output}
    while unused := [
        node
        for node in graph.node
        if node.op_type == "Cast" and node.output[0] not in kept.union(name for other in graph.node for name in other.input)
    ]:
        for node in unused:
            graph.node.remove(node)


def _sort(graph: onnx.GraphProto) -> None:
    """Each node after those it reads from, which ONNX wants; the conversion appends its casts at the end."""
    made = {tensor.name for tensor in (*graph.initializer, *graph.input)} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if made.issuperset(node.input)]
        assert ready, "a graph has no cycle"
        ordered += ready
        made.update(name for node in ready for name in node.output)
        waiting = [node for node in waiting if not made.issuperset(node.output)]
    del graph.node[:]
    graph.node.extend(ordered)


class _Reader:
    """Feeds the calibration one image at a time."""

    def __init__(self, images: np.ndarray) -> None:
        self._images: Iterator[np.ndarray] = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image[None]}


def _ends(graph: onnx.GraphProto) -> list[str]:
    """Names of the convolutions before which no other comes, and of those after which none does."""
    convolutions = [node.name for node in graph.node if node.op_type == "Conv"]
    behind, before = _reached(graph.node, forwards=True), _reached(reversed(graph.node), forwards=False)
    return [name for name in convolutions if name not in behind or name not in before]


def _depthwise(graph: onnx.GraphProto) -> list[str]:
    """Names of the convolutions whose every channel is a group of its own."""
    alone = {
        tensor.name for tensor in graph.initializer if len(tensor.dims) == 4 and tensor.dims[1] == 1 and tensor.dims[0] > 1
    }
    grouped = [
        node for node in graph.node if node.op_type == "Conv" and any(a.name == "group" and a.i > 1 for a in node.attribute)
    ]
    return [node.name for node in grouped if node.input[1] in alone]


def _shifts(graph: onnx.GraphProto) -> list[str]:
    """Names of the additions of a constant, as group norm ends in one: only sums of two maps are quantised."""
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "Add" and constants.intersection(node.input)]


def _reached(nodes: Iterable[onnx.NodeProto], forwards: bool) -> set[str]:
    """Names of the nodes that are behind a convolution, or before one; `nodes` in the order of that direction."""
    values: set[str] = set()
    found: set[str] = set()
    for node in nodes:
        come_from, go_to = (node.input, node.output) if forwards else (node.output, node.input)
        if values.intersection(come_from):
            found.add(node.name)
        if node.op_type == "Conv" or node.name in found:
            values.update(go_to)
    return found


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """onnxruntime's tools warn through the root logger of things that hold here by construction."""
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
