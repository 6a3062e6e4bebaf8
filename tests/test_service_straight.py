"""The straight way of small images on a CPU, and the short way of requests that ask for nothing but the mask."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import write_artifact
from serving import as_png, encoded, images, problem

pytest.importorskip("bentoml")
from gated_service import metric, post, started, until

from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.service.app import AdaptiveBatching
from gazeseg_serve.service.plain_request import PlainRequests
from gazeseg_serve.service.settings import Settings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("straight") / "artifact"
    write_artifact(path)
    return path


async def masks(folder: Path, **settings: Any) -> tuple[list[bytes], str]:
    """The answers to different images that come at once, and the metrics after them."""
    async with started(folder, AdaptiveBatching, **settings) as (client, _, _):
        answers = await asyncio.gather(*[client.post("/v1/segment", files={"image": as_png(image)}) for image in images(9)])
        assert [answer.status_code for answer in answers] == [200] * 9
        return [answer.content for answer in answers], (await client.get("/metrics")).text


def test_straight_answers_are_those_of_batches_byte_for_byte(folder: Path) -> None:
    straight, seen = asyncio.run(masks(folder))
    batched, _ = asyncio.run(masks(folder, max_batch=4))
    assert straight == batched
    assert metric(seen, 'gazeseg_batch_size_count{model="default"}') == 9  # every image was a run of its own
    assert metric(seen, 'gazeseg_batch_size_sum{model="default"}') == 9
    assert metric(seen, 'gazeseg_step_seconds_count{step="engine"}') == 9


def test_who_is_alone_gets_all_cpus_and_who_is_not_gets_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    inside, go_on = threading.Event(), threading.Event()
    right = OnnxRuntimeEngine.run_alone

    def run_alone(self: OnnxRuntimeEngine, image: np.ndarray, all_cpus: bool) -> Outputs:
        asked.append(all_cpus)
        inside.set()
        assert go_on.wait(60)
        return right(self, image, all_cpus)

    async def scenario() -> None:
        monkeypatch.setattr("gazeseg_serve.cpus.available", lambda: 2)
        async with started(folder, AdaptiveBatching) as (client, _, _):
            monkeypatch.setattr(OnnxRuntimeEngine, "run_alone", run_alone)
            first = asyncio.ensure_future(post(client))
            await until(inside.is_set)
            second = asyncio.ensure_future(post(client))
            await until(lambda: len(asked) == 2)
            go_on.set()
            assert [answer.status_code for answer in await asyncio.gather(first, second)] == [200, 200]
            assert (await post(client)).status_code == 200
            assert asked == [True, False, True]

    asyncio.run(scenario())


@pytest.mark.parametrize("all_cpus", [True, False])
def test_one_image_is_the_batch_of_one_bit_for_bit(folder: Path, all_cpus: bool) -> None:
    engine = OnnxRuntimeEngine(folder / "model.onnx", "cpu", 2, lanes=True)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    alone, batch = engine.run_alone(image, all_cpus), engine.run(image[None])
    np.testing.assert_array_equal(alone.probability, batch.probability)
    np.testing.assert_array_equal(alone.disagreement, batch.disagreement)  # type: ignore[arg-type]


def test_an_engine_that_fails_on_the_straight_way_is_500_and_gives_its_place_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with started(folder, AdaptiveBatching) as (client, runtime, _):
            with monkeypatch.context() as broken:
                broken.setattr(OnnxRuntimeEngine, "run_alone", lambda *_: 1 // 0)
                for _ in range(5):
                    problem(await post(client), 500, "internal-error")
            assert (await post(client)).status_code == 200
            assert runtime.admission.total == 0
            text = (await client.get("/metrics")).text
            assert metric(text, 'gazeseg_requests_total{route="/v1/segment",status="500"}') == 5
            assert metric(text, 'gazeseg_requests_total{route="/v1/segment",status="200"}') == 1

    asyncio.run(scenario())


def test_the_short_way_answers_as_the_long_one(folder: Path) -> None:
    async def scenario() -> None:
        async with started(folder, AdaptiveBatching) as (client, _, edge):
            assert isinstance(edge._api, PlainRequests)
            cases: list[dict[str, Any]] = [
                {"files": {"image": encoded()}},
                {"content": encoded(), "headers": {"Content-Type": "image/png"}},
                {"content": b"\x89PNG", "headers": {"Content-Type": "image/png"}},
                {"content": b"x", "headers": {"Content-Type": "text/plain"}},
                {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
                {"files": {"other": b"x"}},
                {"files": {"image": encoded()}, "headers": {"Accept": "text/html"}},
                {"files": {"image": encoded()}, "headers": {"If-None-Match": "*"}},
            ]
            for case in cases:
                short = await client.post("/v1/segment", **case)
                long = await client.post("/v1/models/default/segment", **case)
                assert short.status_code == long.status_code, case
                if short.headers["content-type"] == "application/problem+json":
                    assert {**short.json(), "request_id": ""} == {**long.json(), "request_id": ""}
                else:
                    assert short.content == long.content
                assert set(short.headers) == set(long.headers)
                assert short.headers.get("etag") == long.headers.get("etag")

    asyncio.run(scenario())


@pytest.mark.parametrize(("available", "workers", "wanted"), [(2, 1, 2), (2, 2, 1), (2, 4, 1), (8, 3, 2)])
def test_workers_share_the_cpus(available: int, workers: int, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gazeseg_serve.cpus.available", lambda: available)
    assert Settings(workers=workers).cpus_each == wanted


def test_engine_and_threads_of_a_worker_have_its_share(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gazeseg_serve.cpus.available", lambda: 6)

    async def scenario() -> None:
        async with started(folder, AdaptiveBatching, workers=2) as (_, runtime, _):
            assert runtime.pipeline.places == 3
            engine = runtime.host("default").predictor.engine
            assert isinstance(engine, OnnxRuntimeEngine)
            assert engine.threads == 3

    asyncio.run(scenario())


def test_the_etag_is_the_same_on_either_way_and_with_or_without_a_condition(folder: Path) -> None:
    async def scenario(**settings: Any) -> set[str]:
        async with started(folder, AdaptiveBatching, **settings) as (client, _, _):
            plain = await post(client)
            other = await client.post("/v1/segment", files={"image": encoded()}, headers={"If-None-Match": 'W/"other"'})
            same = await client.post(
                "/v1/segment", files={"image": encoded()}, headers={"If-None-Match": plain.headers["etag"]}
            )
            assert [answer.status_code for answer in (plain, other, same)] == [200, 200, 412]
            return {answer.headers["etag"] for answer in (plain, other, same)}

    straight, batched = asyncio.run(scenario()), asyncio.run(scenario(max_batch=4))
    assert len(straight) == 1
    assert straight == batched
