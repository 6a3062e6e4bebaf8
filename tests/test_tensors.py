"""The wire format of the Open Inference Protocol, away from any service: datatypes, limits, and a round trip of anything."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from artifacts import write_artifact
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("bentoml")

from gazeseg_serve.contract import Artifact, InputSpec, graph_inputs
from gazeseg_serve.service.problems import Problem
from gazeseg_serve.service.tensors import describe, header_length, parse, render, values_of

MIB = 2**20


@pytest.fixture(scope="module")
def bytes_in(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_artifact(tmp_path_factory.mktemp("a"), classes=("a", "b"))


@pytest.fixture(scope="module")
def floats_in(bytes_in: Artifact) -> Artifact:
    spec = InputSpec(32, 1, normalisation="zscore")
    return dataclasses.replace(bytes_in, input=spec, inputs=graph_inputs(spec))


def asked(pixels: np.ndarray, datatype: str, **changes: Any) -> bytes:
    tensor = {"name": "image", "datatype": datatype, "shape": list(pixels.shape), "data": pixels.ravel().tolist(), **changes}
    return json.dumps({"inputs": [tensor]}).encode()


def refused(artifact: Artifact, body: bytes, json_bytes: int | None = None, max_images: int = 8) -> Problem:
    with pytest.raises(Problem) as found:
        parse(artifact, body, len(body) if json_bytes is None else json_bytes, max_images)
    return found.value


def test_float_images_come_as_they_were_sent(floats_in: Artifact) -> None:
    pixels = np.random.default_rng(0).normal(0, 1e3, (2, 32, 32, 1)).astype(np.float32)
    text = asked(pixels, "FP32")
    listed = parse(floats_in, text, len(text), 8).images
    head = asked(pixels, "FP32", parameters={"binary_data_size": pixels.nbytes})
    head = json.dumps({"inputs": [{k: v for k, v in json.loads(head)["inputs"][0].items() if k != "data"}]}).encode()
    packed = parse(floats_in, head + pixels.astype("<f4").tobytes(), len(head), 8).images
    for images in (listed, packed):
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, pixels)
    whole = np.arange(1024, dtype=np.int64).reshape(1, 32, 32, 1)
    text = asked(whole, "FP32")  # whole numbers are numbers
    np.testing.assert_array_equal(parse(floats_in, text, len(text), 8).images, whole)


@pytest.mark.parametrize("value", [1e39, -1e39, 10**400])
def test_a_number_that_no_float_holds_is_refused(floats_in: Artifact, value: float) -> None:
    pixels = np.zeros((1, 32, 32, 1))
    assert refused(floats_in, asked(pixels, "FP32", data=[value] + [0.0] * 1023)).code == "bad-tensor"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_binary_data_that_is_not_finite_is_refused(floats_in: Artifact, value: float) -> None:
    pixels = np.zeros((1, 32, 32, 1), "<f4")
    pixels[0, 5, 5, 0] = value
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 32, 32, 1], "parameters": {"binary_data_size": pixels.nbytes}}
    head = json.dumps({"inputs": [tensor]}).encode()
    assert "not finite" in refused(floats_in, head + pixels.tobytes(), len(head)).detail


def test_the_json_has_a_limit_of_its_own() -> None:
    assert header_length(None, 4 * MIB) == 4 * MIB
    assert header_length("7", 7) == 7
    assert header_length(str(4 * MIB), 30 * MIB) == 4 * MIB
    for text, body in ((None, 4 * MIB + 1), (str(4 * MIB + 1), 30 * MIB)):
        with pytest.raises(Problem, match="binary") as found:
            header_length(text, body)
        assert found.value.status == 413
    for text in ("8", "-1", "", " 7", "+7", "7.0", "٣", "9" * 13):
        with pytest.raises(Problem) as found:
            header_length(text, 7)
        assert found.value.status == 400


def test_an_answer_in_json_has_a_limit(bytes_in: Artifact) -> None:
    """4096 numbers an image: three classes and the disagreement, 32 x 32 each; 256 images are 2^20."""
    assert sum(values_of(tensor, 1) for tensor in bytes_in.outputs) == 4096

    def body(images: int, **more: Any) -> tuple[bytes, int]:
        size = images * 32 * 32 * 3
        tensor = {"name": "image", "datatype": "UINT8", "shape": [images, 32, 32, 3], "parameters": {"binary_data_size": size}}
        head = json.dumps({"inputs": [tensor], **more}).encode()
        return head + bytes(size), len(head)

    assert len(parse(bytes_in, *body(256), 512).images) == 256
    found = refused(bytes_in, *body(257), 512)
    assert (found.status, found.code) == (413, "answer-too-large")
    for more in (
        {"parameters": {"binary_data_output": True}},
        {"outputs": [{"name": "disagreement"}]},
        {"outputs": [{"name": "probability", "parameters": {"binary_data": True}}]},
    ):
        assert len(parse(bytes_in, *body(257, **more), 512).images) == 257
    assert refused(bytes_in, *body(4), 3).code == "too-many-images"


@pytest.mark.parametrize("depth", [1, 4, 5, 6, 500, 900, 980, 990, 5000])
def test_lists_nested_too_deep_are_refused_where_they_stand(bytes_in: Artifact, depth: int) -> None:
    """Python's own repr and JSON give up at some depth; neither may be what the client hears of as a bug."""
    nested = b"[" * depth + b"]" * depth
    for field in (b"name", b"datatype", b"shape", b"data", b"parameters", b"extra"):
        text = b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0]}]}'
        text = text.replace(b'"data": [0]', b'"' + field + b'": ' + nested)
        found = refused(bytes_in, text)
        assert (found.status, found.code) == (400, "bad-tensor")
        assert len(found.detail) < 300


def test_metadata_names_the_shapes(floats_in: Artifact) -> None:
    assert [describe(tensor) for tensor in (*floats_in.inputs, *floats_in.outputs)] == [
        {"name": "image", "datatype": "FP32", "shape": [-1, 32, 32, 1]},
        {"name": "probability", "datatype": "FP32", "shape": [-1, 3, 32, 32]},
        {"name": "disagreement", "datatype": "FP32", "shape": [-1, 32, 32]},
    ]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["probability", "disagreement"]), st.booleans()), unique_by=lambda pair: pair[0]),
    st.booleans(),
    st.none() | st.text(max_size=20),
    st.integers(1, 3),
)
def test_what_is_asked_for_is_what_comes(
    bytes_in: Artifact, outputs: list[tuple[str, bool]], default: bool, name: str | None, images: int
) -> None:
    pixels = np.random.default_rng(images).integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    request = json.loads(asked(pixels, "UINT8"))
    request["parameters"] = {"binary_data_output": default}
    if outputs:
        request["outputs"] = [{"name": key, "parameters": {"binary_data": binary}} for key, binary in outputs]
    if name is not None:
        request["id"] = name
    body = json.dumps(request).encode()
    wanted = parse(bytes_in, body, len(body), 8)
    np.testing.assert_array_equal(wanted.images, pixels)
    binary = dict(outputs) or {"probability": default, "disagreement": default}
    assert list(wanted.binary.items()) == list(binary.items())
    given = {
        "probability": np.random.default_rng(1).random((images, 3, 32, 32), np.float32),
        "disagreement": np.random.default_rng(2).random((images, 32, 32), np.float32),
    }
    content, length = render("polyps", wanted, given)
    assert (length is None) == (not any(binary.values()))
    told, rest = json.loads(content[:length]), content[length or len(content) :]
    assert told.get("id") == name
    for output in told["outputs"]:
        if "data" in output:
            values = np.array(output["data"], np.float32)
        else:
            size = output["parameters"]["binary_data_size"]
            values, rest = np.frombuffer(rest[:size], "<f4"), rest[size:]
        np.testing.assert_array_equal(values.reshape(output["shape"]), given[output["name"]])
    assert rest == b""
