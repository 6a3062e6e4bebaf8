"""The Open Inference Protocol: spoken by Triton's own client, and by hand where it would not say such things."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import write_artifact

pytest.importorskip("bentoml")
from serving import Running, as_png, problem, running, serve, wait_until_ready
from starlette.testclient import TestClient

from gazeseg_serve.predictor import Predictor
from gazeseg_serve.service.settings import Settings

tritonclient = pytest.importorskip("tritonclient.http")

IMAGES = np.random.default_rng(4).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
HEADER = "Inference-Header-Content-Length"
INFER = "/v2/models/default/infer"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_artifact(folder, threshold=0.4)
    return folder


@pytest.fixture(scope="module")
def service(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(artifact, tmp_path_factory.mktemp("logs"), GAZESEG_API_KEYS="ward-7") as service:
        yield service


@pytest.fixture(scope="module")
def triton(service: Running) -> Iterator[Any]:
    client = tritonclient.InferenceServerClient(f"127.0.0.1:{service.port}")
    yield client
    client.close()


@pytest.fixture(scope="module")
def client(artifact: Path) -> Iterator[TestClient]:
    with serve(Settings(artifact=artifact, max_images=8)) as client:
        wait_until_ready(client)
        yield client


def key() -> dict[str, str]:
    """A new one each time: Triton's client writes into it."""
    return {"X-API-Key": "ward-7"}


def image(pixels: np.ndarray, binary: bool = True) -> Any:
    given = tritonclient.InferInput("image", list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels, binary_data=binary)
    return given


# Triton's client


def test_triton_s_client_asks_for_health_and_tensors(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert triton.is_model_ready("default", headers=key())
    assert triton.is_model_ready("default", "1", headers=key())
    assert not triton.is_model_ready("default", "2", headers=key())
    for version in ("", "1"):
        told = triton.get_model_metadata("default", version, headers=key())
        assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
        assert told["outputs"] == [
            {"name": "probability", "datatype": "FP32", "shape": [-1, 1, 32, 32]},
            {"name": "disagreement", "datatype": "FP32", "shape": [-1, 32, 32]},
        ]
        assert (told["name"], told["versions"]) == ("default", ["1"])


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("sent", "wanted"), [(True, True), (True, False), (False, True), (False, False)])
def test_triton_s_client_gets_what_the_engine_says(triton: Any, artifact: Path, batch: int, sent: bool, wanted: bool) -> None:
    names = ("disagreement", "probability")
    outputs = [tritonclient.InferRequestedOutput(name, binary_data=wanted) for name in names]
    found = triton.infer("default", [image(IMAGES[:batch], sent)], outputs=outputs, request_id="call 7", headers=key())
    engine = Predictor.open(artifact, "cpu").run(list(IMAGES[:batch]))
    for name in names:
        np.testing.assert_array_equal(found.as_numpy(name), getattr(engine, name))
    told = found.get_response()
    assert (told["id"], told["model_name"], told["model_version"]) == ("call 7", "default", "1")
    assert [output["name"] for output in told["outputs"]] == list(names)
    assert all(("data" in output) != wanted for output in told["outputs"])


def test_both_doors_say_the_same_probability(triton: Any, service: Running) -> None:
    import httpx

    found = triton.infer("default", [image(IMAGES)], headers=key()).as_numpy("probability")
    for pixels, probability in zip(IMAGES, found, strict=True):
        answer = httpx.post(
            service.url + "/v1/segment?output=npz", content=as_png(pixels), headers={**key(), "Content-Type": "image/png"}
        )
        with np.load(io.BytesIO(answer.content)) as stored:
            assert np.abs(stored["probability"] - probability).max() <= 1e-6


def test_triton_s_client_reads_why_it_was_refused(triton: Any) -> None:
    with pytest.raises(tritonclient.InferenceServerException, match="send a valid key") as refused:
        triton.infer("default", [image(IMAGES)])
    assert refused.value.status() == "401"
    with pytest.raises(tritonclient.InferenceServerException, match="no model is called 'other'"):
        triton.infer("other", [image(IMAGES)], headers=key())
    with pytest.raises(tritonclient.InferenceServerException, match="version 1 alone"):
        triton.infer("default", [image(IMAGES)], model_version="3", headers=key())
    with pytest.raises(tritonclient.InferenceServerException, match=r"the shape \[images, 32, 32, 3\]"):
        triton.infer("default", [image(IMAGES[:, :16])], headers=key())
    with pytest.raises(tritonclient.InferenceServerException, match="timeout"):  # asked for, and not to be had here
        triton.infer("default", [image(IMAGES)], timeout=5, headers=key())
    classes = [tritonclient.InferRequestedOutput("probability", class_count=2)]
    with pytest.raises(tritonclient.InferenceServerException, match="classification"):
        triton.infer("default", [image(IMAGES)], outputs=classes, headers=key())
    with pytest.raises(tritonclient.InferenceServerException, match="gzip"):
        triton.infer("default", [image(IMAGES)], request_compression_algorithm="gzip", headers=key())


# By hand


def spoken(pixels: np.ndarray = IMAGES[:1], **changes: Any) -> dict[str, Any]:
    """A request in JSON; `changes` replace fields of its one input, None leaves one out."""
    given = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist(), **changes}
    return {"inputs": [{name: value for name, value in given.items() if value is not None}]}


def packed(request: dict[str, Any], blob: bytes, length: str | None = None) -> dict[str, Any]:
    text = json.dumps(request).encode()
    return {"content": text + blob, "headers": {HEADER: length or str(len(text)), "Content-Type": "application/octet-stream"}}


def test_json_lists_may_be_nested_as_the_shape(client: TestClient) -> None:
    flat = client.post(INFER, json=spoken()).json()
    nested = client.post(INFER, json=spoken(data=IMAGES[:1].tolist())).json()
    assert flat == nested
    (probability,) = (output for output in flat["outputs"] if output["name"] == "probability")
    np.testing.assert_allclose(probability["data"], IMAGES[0].mean(axis=2).ravel() / 255, atol=1e-6)
    assert probability["shape"] == [1, 1, 32, 32]
    assert "id" not in flat


def test_binary_output_is_named_by_its_length(client: TestClient) -> None:
    asked = {**spoken(), "outputs": [{"name": "probability", "parameters": {"binary_data": True}}, {"name": "disagreement"}]}
    answer = client.post(INFER, json=asked)
    length = int(answer.headers[HEADER])
    told = json.loads(answer.content[:length])
    assert [output["name"] for output in told["outputs"]] == ["probability", "disagreement"]
    assert told["outputs"][0]["parameters"] == {"binary_data_size": 4 * 32 * 32}
    assert len(answer.content) == length + 4 * 32 * 32
    first = struct.unpack_from("<f", answer.content, length)[0]
    assert first == pytest.approx(IMAGES[0, 0, 0].mean() / 255, abs=1e-6)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-model-id"]
    assert "engine;dur=" in answer.headers["server-timing"]


SIZE = 32 * 32 * 3
BAD: list[dict[str, Any]] = [
    {"name": "picture"},
    {"name": 3},
    {"datatype": "FP32"},
    {"datatype": None},
    {"shape": [1, 32, 32]},
    {"shape": [0, 32, 32, 3], "data": []},
    {"shape": [-1, 32, 32, 3]},
    {"shape": [2, 32, 32, 3]},
    {"shape": [True, 32, 32, 3]},
    {"shape": [1.0, 32, 32, 3]},
    {"shape": "1,32,32,3"},
    {"data": [0] * (SIZE - 1)},
    {"data": [0] * (SIZE + 1)},
    {"data": [0] * (SIZE - 1) + [256]},
    {"data": [0] * (SIZE - 1) + [-1]},
    {"data": [0] * (SIZE - 1) + [0.5]},
    {"data": [0] * (SIZE - 1) + [True]},
    {"data": [0] * (SIZE - 1) + ["0"]},
    {"data": [0] * (SIZE - 1) + [[0]]},
    {"data": [[0] * SIZE]},
    {"data": IMAGES[:1].swapaxes(1, 3).tolist()},
    {"data": "AAAA"},
    {"data": None},
    {"parameters": {"binary_data_size": SIZE}},
    {"parameters": {"shared_memory_region": "a"}},
    {"parameters": []},
    {"extra": 1},
]


@pytest.mark.parametrize("changes", BAD, ids=lambda changes: str(changes)[:50])
def test_an_input_that_cannot_be_meant_is_refused(client: TestClient, changes: dict[str, Any]) -> None:
    told = problem(client.post(INFER, json=spoken(**changes)), 400, "bad-tensor")
    assert told["error"] == told["detail"]


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": []},
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": spoken()["inputs"] * 2},
        {"id": 7},
        {"id": "x" * 2000},
        {"parameters": {"binary_data_output": 1}},
        {"parameters": {"sequence_id": 4}},
        {"outputs": [{"name": "mask"}]},
        {"outputs": [{"name": "probability"}] * 2},
        {"outputs": [{"name": ["probability"]}]},
        {"outputs": [{}]},
        {"outputs": [{"name": "probability", "parameters": {"classification": 3}}]},
        {"model": "default"},
    ],
    ids=lambda changes: str(changes)[:50],
)
def test_a_request_that_cannot_be_meant_is_refused(client: TestClient, changes: dict[str, Any]) -> None:
    problem(client.post(INFER, json={**spoken(), **changes}), 400, "bad-tensor")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'{"inputs": NaN}', b"[" * 200_000, b'{"inputs": [], "inputs": []}', b"\xff\xfe", b"1" * 9000],
)
def test_what_is_no_json_object_is_refused(client: TestClient, text: bytes) -> None:
    problem(client.post(INFER, content=text, headers={"Content-Type": "application/json"}), 400, "bad-tensor")


def test_binary_data_must_be_what_the_json_says(client: TestClient) -> None:
    pixels = IMAGES[:1].tobytes()
    right = spoken(data=None, parameters={"binary_data_size": SIZE})
    assert client.post(INFER, **packed(right, pixels)).status_code == 200
    length = len(json.dumps(right))
    for wrong in (
        packed(right, pixels[:-1]),
        packed(right, pixels + b"\0"),
        packed(right, b""),
        packed(spoken(data=None, parameters={"binary_data_size": SIZE - 1}), pixels[:-1]),
        packed(spoken(data=None, parameters={"binary_data_size": True}), b"\0"),
        packed(spoken(data=None, parameters={"binary_data_size": "9"}), pixels),
        packed(spoken(), b"\0"),
        packed(right, pixels, str(length - 1)),
        packed(right, pixels, str(length + 1)),
        packed(right, pixels, "0"),
        packed(right, pixels, "-1"),
        packed(right, pixels, "1e3"),
        packed(right, pixels, "9" * 30),
        packed(right, pixels, "²"),
    ):
        wrong["headers"] = {name: value.encode() for name, value in wrong["headers"].items()}
        problem(client.post(INFER, **wrong), 400, "bad-tensor")


def test_what_an_input_makes_is_limited(client: TestClient) -> None:
    many = np.zeros((9, 32, 32, 3), np.uint8)
    request = spoken(many, data=None, parameters={"binary_data_size": many.nbytes})
    problem(client.post(INFER, **packed(request, many.tobytes())), 413, "too-many-images")
    eight = spoken(many[:8], data=None, parameters={"binary_data_size": many[:8].nbytes})
    assert client.post(INFER, **packed(eight, many[:8].tobytes())).status_code == 200
    spaces = json.dumps(spoken()).encode() + b" " * (4 * 2**20)
    problem(client.post(INFER, content=spaces, headers={"Content-Type": "application/json"}), 413, "body-too-large")


def test_other_media_types_and_methods_are_refused(client: TestClient) -> None:
    problem(client.post(INFER, content=b"{}", headers={"Content-Type": "image/png"}), 415, "unsupported-media-type")
    problem(client.get(INFER), 405, "method-not-allowed")
    problem(client.post(INFER + "?x=1", json=spoken()), 422, "unknown-parameter")
    told = problem(client.get("/v2/models/other"), 404, "no-such-model")
    assert told["error"] == told["detail"]
    assert "error" not in problem(client.get("/v1/models/other"), 404, "no-such-model")


def test_tensors_are_counted_like_images(client: TestClient) -> None:
    def samples(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next((line.rsplit(" ", 1)[1] for line in lines if line.startswith(name)), 0))

    route = 'gazeseg_requests_total{route="/v2/models/{name}/infer",status="200"}'
    before = samples(route), samples('gazeseg_batch_size_sum{model="default"}')
    asked = spoken(IMAGES, data=None, parameters={"binary_data_size": IMAGES.nbytes})
    assert client.post(INFER, **packed(asked, IMAGES.tobytes())).status_code == 200
    assert (samples(route), samples('gazeseg_batch_size_sum{model="default"}')) == (before[0] + 1, before[1] + len(IMAGES))
