"""A tiny artifact folder that is valid: its graph's probability is the mean of the channels over 255."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from gazeseg_serve.contract import COLOURS, MODEL_FILE, Artifact, InputSpec, graph_inputs, graph_outputs
from gazeseg_serve.files import sha256_file
from gazeseg_serve.presence import Presence


def write_artifact(
    folder: Path,
    size: int = 32,
    disagreement: bool = True,
    threshold: float = 0.5,
    classes: tuple[str, ...] = ("lesion",),
    presence: Presence | None = None,
) -> Artifact:
    """Write `manifest.json` and `model.onnx` into `folder`.

    One class: probability = brightness p, disagreement = p / 2. Several (K with the background): class k's score is
    the brightness of channel k - 1 and the background's is 0.25, in a softmax.
    """
    folder.mkdir(parents=True, exist_ok=True)
    spec = InputSpec(size=size, classes=classes)
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "full"], ["unit"]),
        helper.make_node("ReduceMean", ["unit", "channel_axis"], ["brightness"], keepdims=1),
    ]
    constants = [
        helper.make_tensor("full", TensorProto.FLOAT, [], [255.0]),
        helper.make_tensor("half", TensorProto.FLOAT, [], [0.5]),
        helper.make_tensor("channel_axis", TensorProto.INT64, [1], [1]),
    ]
    if len(classes) == 1:
        nodes.append(helper.make_node("Identity", ["brightness"], ["probability"]))
    else:
        constants += [
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("quarter", TensorProto.FLOAT, [], [0.25]),
            helper.make_tensor("first", TensorProto.INT64, [1], [0]),
            helper.make_tensor("last", TensorProto.INT64, [1], [len(classes)]),
        ]
        nodes += [
            helper.make_node("Mul", ["brightness", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "quarter"], ["background"]),
            helper.make_node("Slice", ["unit", "first", "last", "channel_axis"], ["kept"]),
            helper.make_node("Concat", ["background", "kept"], ["scores"], axis=1),
            helper.make_node("Softmax", ["scores"], ["probability"], axis=1),
        ]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", spec.outputs, size, size])]
    if disagreement:
        nodes += [
            helper.make_node("Mul", ["brightness", "half"], ["halved"]),
            helper.make_node("Squeeze", ["halved", "channel_axis"], ["disagreement"]),
        ]
        outputs.append(helper.make_tensor_value_info("disagreement", TensorProto.FLOAT, ["batch", size, size]))
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", size, size, 3])
    graph = helper.make_graph(nodes, "brightness", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / MODEL_FILE)
    digest = sha256_file(folder / MODEL_FILE)
    artifact = Artifact(
        id=digest,
        strategy="fuse",
        precision="fp32",
        input=spec,
        inputs=graph_inputs(spec),
        outputs=graph_outputs(spec, disagreement),
        colours=COLOURS[: len(classes)],
        threshold=threshold,
        files={MODEL_FILE: digest},
        parity={},
        provenance={"made by": "tests"},
        presence=presence,
    )
    artifact.save(folder)
    return artifact
