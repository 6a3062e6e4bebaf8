"""Weights outside an ONNX file, wherever in the graph they hide, and files that are none."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifacts import write_artifact
from fuzzing import mutate
from onnx import TensorProto, helper, numpy_helper

from gazeseg_serve.contract import MODEL_FILE, Artifact
from gazeseg_serve.errors import ContractError
from gazeseg_serve.files import sha256_file
from gazeseg_serve.onnx_file import check_self_contained


def external(name: str = "w") -> TensorProto:
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../w.bin"
    return tensor


def inside(name: str = "w") -> TensorProto:
    return numpy_helper.from_array(np.array([1, 2], np.float32), name)


def model(place: str, tensor: TensorProto) -> onnx.ModelProto:
    """A model that holds `tensor` in one of the places where the format has tensors."""
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph([node], "g", [], [])
    functions = []
    if place == "initializer":
        graph.initializer.append(tensor)
    elif place == "sparse":
        graph.sparse_initializer.append(
            helper.make_sparse_tensor(tensor, helper.make_tensor("i", TensorProto.INT64, [2], [0, 1]), [4])
        )
    elif place == "attribute":
        node.attribute.append(helper.make_attribute("value", tensor))
    elif place == "tensors":
        node.attribute.append(helper.make_attribute("values", [tensor]))
    elif place == "subgraph":
        inner = helper.make_graph([], "inner", [], [], [tensor])
        node.attribute.append(
            helper.make_attribute(
                "body", helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=inner)], "o", [], [])
            )
        )
    elif place == "function":
        body = helper.make_node("Constant", [], ["y"], value=tensor)
        functions.append(helper.make_function("d", "f", [], ["y"], [body], [helper.make_opsetid("", 20)]))
    graph.node[0].CopyFrom(node)
    return helper.make_model(graph, functions=functions)


@pytest.mark.parametrize("place", ["initializer", "sparse", "attribute", "tensors", "subgraph", "function"])
def test_external_weights_are_found_wherever_they_are(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model(place, inside()).SerializeToString())
    check_self_contained(path)
    path.write_bytes(model(place, external()).SerializeToString())
    with pytest.raises(ContractError, match="weights in other files"):
        check_self_contained(path)


def test_either_mark_of_external_data_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for field in ("data_location", "external_data"):
        tensor = external()
        tensor.ClearField(field)
        path.write_bytes(model("initializer", tensor).SerializeToString())
        with pytest.raises(ContractError, match="weights in other files"):
            check_self_contained(path)


@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x3a\x02" * 500])
def test_what_is_no_model_is_said(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ContractError):
        check_self_contained(path)


def test_mutated_models_are_read_or_refused(tmp_path: Path) -> None:
    data, path, outcomes = model("subgraph", inside()).SerializeToString(), tmp_path / "m.onnx", set()
    for number in range(500):
        path.write_bytes(mutate(data, random.Random(f"onnx/{number}")))
        try:
            check_self_contained(path)
            outcomes.add("read")
        except ContractError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def test_an_artifact_with_external_weights_does_not_load(tmp_path: Path) -> None:
    import dataclasses

    folder = tmp_path / "artifact"
    artifact = write_artifact(folder)
    changed = onnx.load(folder / MODEL_FILE)
    changed.graph.initializer.append(external("unused"))
    (folder / MODEL_FILE).write_bytes(changed.SerializeToString())
    digest = sha256_file(folder / MODEL_FILE)
    dataclasses.replace(artifact, id=digest, files={MODEL_FILE: digest}).save(folder)
    with pytest.raises(ContractError, match="weights in other files"):
        Artifact.load(folder)
