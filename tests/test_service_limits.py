"""Overload, keys, deadlines and clients that leave, with an engine that waits to be told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("bentoml")
from gated_service import Gate
from serving import encoded, problem, serve, wait_until_ready

from gazeseg_serve.errors import ConfigError
from gazeseg_serve.service.app import SWAGGER_UI
from gazeseg_serve.service.edge import Edge
from gazeseg_serve.service.keys import Keys
from gazeseg_serve.service.routes import create_api
from gazeseg_serve.service.runtime import Runtime
from gazeseg_serve.service.settings import Settings


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Gate, Runtime, Edge]]:
    """A ready service whose engine does nothing until the gate opens."""
    gate = Gate()
    chosen = Settings(artifact=folder, max_batch=1, **settings)
    runtime = Runtime(chosen, gate)
    edge = Edge(create_api(runtime, SWAGGER_UI), runtime)
    runtime.start()
    while not runtime.is_ready():
        assert runtime.is_alive()
        await asyncio.sleep(0.005)
    gate.jobs.clear()
    gate.open.clear()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://test") as client:
        yield client, gate, runtime, edge
    await runtime.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


def post(client: httpx.AsyncClient, **headers: str) -> Awaitable[httpx.Response]:
    return client.post("/v1/segment", files={"image": encoded()}, headers=headers)


def test_over_the_queue_is_503_at_once_and_the_others_are_answered(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder, max_queue=3) as (client, gate, runtime, _):
            waiting = [asyncio.ensure_future(post(client)) for _ in range(3)]
            await until(lambda: len(gate.jobs) == 3)
            refused = await post(client)
            problem(refused, 503, "queue-full")
            assert int(refused.headers["retry-after"]) >= 1
            assert len(gate.jobs) == 3
            metrics = (await client.get("/metrics")).text
            assert 'gazeseg_shed_total{reason="queue-full"} 1.0' in metrics
            assert "gazeseg_in_flight 3.0" in metrics
            assert 'gazeseg_queue_depth{model="default"} 3.0' in metrics
            gate.open.set()
            assert [response.status_code for response in await asyncio.gather(*waiting)] == [200] * 3
            assert (await post(client)).status_code == 200
            assert runtime.admission.total == 0

    asyncio.run(scenario())


def test_one_client_gets_its_share_and_no_more(folder: Path) -> None:
    async def scenario() -> None:
        keys = ("first-key", "second-key")
        async with served(folder, max_queue=4, client_share=0.5, api_keys=keys) as (client, gate, _, _):
            greedy = [asyncio.ensure_future(post(client, Authorization="Bearer first-key")) for _ in range(2)]
            await until(lambda: len(gate.jobs) == 2)
            refused = await post(client, Authorization="Bearer first-key")
            problem(refused, 429, "client-share")
            assert "retry-after" in refused.headers
            other = asyncio.ensure_future(post(client, **{"X-API-Key": "second-key"}))
            await until(lambda: len(gate.jobs) == 3)
            gate.open.set()
            assert [r.status_code for r in await asyncio.gather(*greedy, other)] == [200] * 3

    asyncio.run(scenario())


def test_an_answer_that_does_not_come_is_504_and_its_job_is_dropped(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder, timeout_seconds=0.1) as (client, gate, runtime, _):
            problem(await post(client), 504, "timeout")
            await until(lambda: [job.gone for job in gate.jobs] == [True])
            assert runtime.admission.total == 0

    asyncio.run(scenario())


def scope(path: str = "/v1/segment", **headers: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": ("10.0.0.9", 1),
        "server": ("test", 80),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }


async def talk(edge: Edge, events: asyncio.Queue[dict[str, Any]], **headers: str) -> int:
    """Speak ASGI by hand; returns the status."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await edge(scope(**headers), events.get, send)
    return int(sent[0]["status"])


def test_when_the_client_goes_its_image_never_reaches_the_engine(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder) as (client, gate, runtime, edge):
            events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            events.put_nowait({"type": "http.request", "body": encoded(), "more_body": False})
            visit = asyncio.ensure_future(talk(edge, events, content_type="image/png"))
            await until(lambda: len(gate.jobs) == 1)
            events.put_nowait({"type": "http.disconnect"})
            assert await visit == 499
            await until(lambda: gate.jobs[0].gone)
            assert runtime.admission.total == 0
            gate.open.set()
            assert (await post(client)).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert 'gazeseg_batch_size_count{model="default"} 1.0' in metrics, "the abandoned image was run"
            assert 'gazeseg_shed_total{reason="client-gone"} 1.0' in metrics

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=b"])
def test_a_body_that_stops_coming_is_408(folder: Path, kind: str) -> None:
    async def scenario() -> None:
        async with served(folder, read_seconds=0.1) as (_, _, runtime, edge):
            events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            events.put_nowait({"type": "http.request", "body": b"--b\r\n", "more_body": True})
            assert await talk(edge, events, content_type=kind) == 408
            assert runtime.admission.total == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=b"])
def test_a_client_that_leaves_while_it_sends_frees_its_place(folder: Path, kind: str) -> None:
    async def scenario() -> None:
        async with served(folder) as (_, _, runtime, edge):
            events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            events.put_nowait({"type": "http.request", "body": b"--b\r\n", "more_body": True})
            events.put_nowait({"type": "http.disconnect"})
            assert await talk(edge, events, content_type=kind) == 499
            assert runtime.admission.total == 0

    asyncio.run(scenario())


def test_while_draining_new_requests_are_refused_and_old_ones_answered(folder: Path) -> None:
    async def scenario() -> None:
        async with served(folder) as (client, gate, runtime, _):
            old = asyncio.ensure_future(post(client))
            await until(lambda: len(gate.jobs) == 1)
            runtime.admission.draining = True
            assert not runtime.is_ready()
            refused = await post(client)
            problem(refused, 503, "draining")
            assert refused.headers["connection"] == "close"
            gate.open.set()
            assert (await old).status_code == 200

    asyncio.run(scenario())


def test_a_bug_is_a_500_problem_and_the_next_request_is_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async def scenario() -> None:
        async with served(folder) as (client, gate, runtime, _):
            gate.open.set()
            with monkeypatch.context() as patched:
                patched.setattr("gazeseg_serve.service.codec_tasks.render", broken)
                response = await post(client)
            body = problem(response, 500, "internal-error")
            assert "bug" not in str(body)
            assert (await post(client)).status_code == 200
            assert runtime.admission.total == 0

    with caplog.at_level(logging.ERROR, "gazeseg_serve"):
        asyncio.run(scenario())
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "no-key"),
        ({"Authorization": "Bearer wrong"}, "wrong-key"),
        ({"X-API-Key": "wrong"}, "wrong-key"),
        ({"Authorization": "Basic key-one"}, "no-key"),
        ({"Authorization": "Bearer"}, "no-key"),
        ({"X-API-Key": "key-one "}, None),
        ({"Authorization": "bearer key-two"}, None),
        ({"Authorization": "Bearer from-file"}, None),
    ],
)
def test_keys_guard_every_v1_route(folder: Path, tmp_path: Path, headers: dict[str, str], code: str | None) -> None:
    file = tmp_path / "keys"
    file.write_text("# ward 7\nfrom-file\n\n")
    settings = Settings(artifact=folder, api_keys="key-one, key-two", api_keys_file=file)  # type: ignore[arg-type]
    with serve(settings) as client:
        wait_until_ready(client)
        for response in (
            client.get("/v1/model", headers=headers),
            client.get("/v1/unknown", headers=headers),
            client.post("/v1/segment", files={"image": encoded()}, headers=headers),
            client.post("/v1/segment/batch", files={"image": encoded()}, headers=headers),
        ):
            if code is not None:
                problem(response, 401, code)
                assert response.headers["www-authenticate"] == "Bearer"
            else:
                assert response.status_code in (200, 404)
        for path in ("/livez", "/readyz", "/docs", "/metrics"):
            assert client.get(path).status_code == 200
        assert "key-one" not in client.get("/metrics").text


@pytest.mark.parametrize("content", [None, "", "# only a comment\n"])
def test_a_key_file_without_keys_does_not_open_the_service(folder: Path, tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match="keys"):
        Keys.load(Settings(artifact=folder, api_keys_file=file))


def test_other_origins_are_allowed_only_by_name(folder: Path) -> None:
    ask = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "POST"}
    with serve(Settings(artifact=folder)) as client:
        wait_until_ready(client)
        response = client.options("/v1/segment", headers=ask)
        assert "access-control-allow-origin" not in response.headers
    with serve(Settings(artifact=folder, cors_origins="https://viewer.example", api_keys="k")) as client:  # type: ignore[arg-type]
        wait_until_ready(client)
        response = client.options("/v1/segment", headers=ask)
        assert response.status_code == 200
        assert response.headers["access-control-allow-origin"] == "https://viewer.example"
        refused = client.options("/v1/segment", headers={**ask, "Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in refused.headers
