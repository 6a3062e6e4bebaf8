"""The client against a real service, and against one that misbehaves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from artifacts import write_artifact
from serving import PIXELS, Running, encoded, running

from gazeseg_serve import client as client_module
from gazeseg_serve.client import AsyncClient, Client, ServiceError
from gazeseg_serve.errors import ImageError
from gazeseg_serve.predictor import Predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    write_artifact(folder / "zones", classes=("zone", "core"), disagreement=False)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        folder, tmp_path_factory.mktemp("service"), GAZESEG_API_KEYS="secret", GAZESEG_MODELS=f"zones={folder / 'zones'}"
    ) as service:
        yield service


def test_paths_bytes_and_arrays_give_the_same_mask(service: Running, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded())
    expected = Predictor.open(folder, "cpu").predict(PIXELS).mask(0.4)
    with Client(service.url, api_key="secret") as client:
        for source in (path, str(path), encoded(), PIXELS):
            mask = client.segment(source, threshold=0.4)
            np.testing.assert_array_equal(mask.labels, expected)
            assert mask.labels.dtype == np.uint8
            assert mask.seconds["engine"] >= 0
        assert mask.model == client.model()["id"]


def test_describe_and_arrays_agree_with_the_mask(service: Running) -> None:
    with Client(service.url, api_key="secret") as client:
        mask = client.segment(PIXELS)
        arrays = client.arrays(PIXELS, disagreement=True)
        assert client.describe(PIXELS)["classes"][0]["area"] == mask.labels.sum()
    np.testing.assert_array_equal(arrays["mask"], mask.labels)
    assert arrays["disagreement"].shape == mask.labels.shape


def test_a_named_model_gives_its_labels(service: Running, folder: Path) -> None:
    with Client(service.url, api_key="secret", model="zones") as client:
        labels = client.segment(PIXELS).labels
        assert client.model()["name"] == "zones"
    np.testing.assert_array_equal(labels, Predictor.open(folder / "zones", "cpu").predict(PIXELS).mask())


def test_the_async_client_sends_many_at_once(service: Running) -> None:
    async def scenario() -> list[np.ndarray]:
        async with AsyncClient(service.url, api_key="secret") as client:
            masks = await asyncio.gather(*[client.segment(PIXELS[: 10 + i]) for i in range(20)])
            assert (await client.describe(PIXELS))["size"] == [48, 80]
            assert (await client.arrays(PIXELS))["mask"].shape == (48, 80)
            return [mask.labels for mask in masks]

    assert [labels.shape[0] for labels in asyncio.run(scenario())] == [10 + i for i in range(20)]


def test_refusals_keep_their_status_and_code(service: Running) -> None:
    with Client(service.url, api_key="secret") as client, pytest.raises(ServiceError, match="not an image") as caught:
        client.segment(b"junk")
    assert (caught.value.status, caught.value.code) == (415, "unsupported-image")
    with Client(service.url, api_key="other") as client, pytest.raises(ServiceError) as caught:
        client.segment(PIXELS)
    assert caught.value.status == 401


@pytest.mark.parametrize("source", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 3), np.uint8), "/nowhere"])
def test_what_cannot_be_sent_is_an_image_error(source: np.ndarray | str) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ImageError):
        client.segment(source)


def misbehaving(answers: list[httpx.Response | Exception]) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A transport that gives these answers in turn, and the requests it has seen."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = answers[len(seen) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.MockTransport(handle), seen


def good() -> httpx.Response:
    from gazeseg_serve.png import encode_png

    return httpx.Response(200, content=encode_png(np.eye(4, dtype=np.uint8), bilevel=True), headers={"X-Model-Id": "m"})


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses the client made, none of them slept."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def test_busy_answers_and_lost_connections_are_tried_again(pauses: list[float]) -> None:
    transport, seen = misbehaving(
        [httpx.Response(503, headers={"Retry-After": "2"}), httpx.ConnectError("gone"), httpx.Response(429), good()]
    )
    with Client("http://test", transport=transport) as client:
        np.testing.assert_array_equal(client.segment(PIXELS).labels, np.eye(4))
    assert len(seen) == 4
    assert len({request.content for request in seen}) == 1, "the retries sent the same image"
    assert pauses[0] >= 2
    assert all(0 < pause <= client_module._LONGEST_PAUSE for pause in pauses)


def test_it_gives_up_after_its_retries(pauses: list[float]) -> None:
    transport, seen = misbehaving([httpx.ConnectError("refused")] * 3)
    with Client("http://test", transport=transport, retries=2) as client, pytest.raises(ServiceError, match="running"):
        client.segment(PIXELS)
    assert len(seen) == 3
    transport, seen = misbehaving([httpx.Response(503, headers={"Retry-After": "999"})] * 3)
    with Client("http://test", transport=transport, retries=2) as client, pytest.raises(ServiceError) as caught:
        client.segment(PIXELS)
    assert caught.value.status == 503
    assert max(pauses) <= client_module._LONGEST_PAUSE


def test_other_errors_are_not_tried_again(pauses: list[float]) -> None:
    transport, seen = misbehaving([httpx.Response(500, text="oops")])
    with Client("http://test", transport=transport) as client, pytest.raises(ServiceError) as caught:
        client.segment(PIXELS)
    assert (caught.value.status, len(seen), pauses) == (500, 1, [])


def test_the_client_loads_neither_torch_nor_bentoml() -> None:
    code = (
        "import sys, gazeseg_serve.client as c; c.Client('http://x').close(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'bentoml', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
