"""Streams under pressure: frames that come too fast, readers that are too slow, clients that leave, a service that ends."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bentoml")
from artifacts import write_artifact
from gated_service import Gate, gated, metric, until
from serving import encoded

from gazeseg_serve.service.edge import Edge
from gazeseg_serve.service.runtime import Runtime

IMAGE = encoded()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    return folder


class Wire:
    """A WebSocket spoken by hand: what the app has taken, and what it has sent."""

    def __init__(self, edge: Edge, query: str) -> None:
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.taken = 0
        self.blocked = asyncio.Event()
        self.blocked.set()
        scope = {"type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "ws", "path": "/v1/stream",
                 "raw_path": b"/v1/stream", "query_string": query.encode(), "root_path": "", "client": ("10.0.0.9", 1),
                 "server": ("test", 80), "headers": [], "subprotocols": [],
                 "extensions": {"websocket.http.response": {}}}  # fmt: skip
        self.task = asyncio.ensure_future(edge(scope, self._receive, self._send))
        self._events.put_nowait({"type": "websocket.connect"})

    async def _receive(self) -> dict[str, Any]:
        event = await self._events.get()
        self.taken += 1
        return event

    async def _send(self, message: Any) -> None:
        await self.blocked.wait()
        self.sent.append(message)

    def put(self, stamp: float, image: bytes = IMAGE) -> None:
        head = json.dumps({"stamp": stamp}).encode()
        self._events.put_nowait({"type": "websocket.receive", "bytes": struct.pack(">I", len(head)) + head + image})

    def leave(self) -> None:
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1001})

    def heads(self) -> list[dict[str, Any]]:
        found = []
        for message in self.sent:
            if message["type"] == "websocket.send":
                (length,) = struct.unpack_from(">I", message["bytes"])
                found.append(json.loads(message["bytes"][4 : 4 + length]))
        return found

    def closed(self) -> int | None:
        return next((message["code"] for message in self.sent if message["type"] == "websocket.close"), None)


@asynccontextmanager
async def stream(folder: Path, query: str = "", **settings: Any) -> AsyncIterator[tuple[Wire, Gate, Runtime, Edge]]:
    async with gated(folder, **settings) as (_, gate, runtime, edge):
        wire = Wire(edge, query)
        await until(lambda: bool(wire.sent))
        assert wire.sent[0]["type"] == "websocket.accept"
        yield wire, gate, runtime, edge
        wire.leave()
        await asyncio.wait_for(wire.task, 20)
        assert runtime.held.total == 0
        assert runtime.admission.total == 0
        assert metric(runtime.telemetry.render().decode(), "gazeseg_streams") == 0


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


def test_the_newest_frame_wins_and_every_other_is_told(folder: Path) -> None:
    async def scenario() -> None:
        async with stream(folder) as (wire, gate, runtime, _):
            wire.put(0)
            await until(lambda: len(gate.jobs) == 1)
            for stamp in range(1, 5):
                wire.put(stamp)
            await until(lambda: len(wire.heads()) == 3)
            assert [(head["stamp"], head["dropped"]) for head in wire.heads()] == [(1, True), (2, True), (3, True)]
            assert runtime.held.total == 2 * len(IMAGE), "one in work, one waits"
            gate.open.set()
            await until(lambda: len(wire.heads()) == 5)
            assert [(head["stamp"], head["dropped"]) for head in wire.heads()[3:]] == [(0, False), (4, False)]
            text = runtime.telemetry.render().decode()
            assert metric(text, 'gazeseg_stream_frames_total{outcome="dropped"}') == 3
            assert metric(text, 'gazeseg_stream_frames_total{outcome="answered"}') == 2

    run(scenario)


def test_where_none_may_be_lost_no_more_is_read(folder: Path) -> None:
    async def scenario() -> None:
        async with stream(folder, "order=every") as (wire, gate, runtime, _):
            for stamp in range(6):
                wire.put(stamp)
            await until(lambda: len(gate.jobs) == 1 and wire.taken == 4)
            for _ in range(50):
                await asyncio.sleep(0)
            assert wire.taken == 4, "the connect, one in work, one that waits, one that is being put"
            assert runtime.held.total == 3 * len(IMAGE)
            gate.open.set()
            await until(lambda: len(wire.heads()) == 6)
            assert [head["stamp"] for head in wire.heads()] == list(range(6))
            assert not any(head["dropped"] for head in wire.heads())

    run(scenario)


@pytest.mark.parametrize("order", ["newest", "every"])
def test_a_client_that_leaves_takes_its_work_along(order: str, folder: Path) -> None:
    async def scenario() -> None:
        async with stream(folder, f"order={order}") as (wire, gate, runtime, _):
            wire.put(0)
            await until(lambda: len(gate.jobs) == 1)
            wire.put(1)
            await until(lambda: wire.taken == 3)
            wire.leave()
            await asyncio.wait_for(wire.task, 20)
            assert gate.jobs[0].gone
            assert runtime.held.total == 0
            assert not wire.heads()

    run(scenario)


def test_who_does_not_read_is_cut_off(folder: Path) -> None:
    async def scenario() -> None:
        async with stream(folder, write_seconds=0.05) as (wire, gate, runtime, _):
            wire.blocked.clear()
            gate.open.set()
            wire.put(0)
            await asyncio.wait_for(wire.task, 20)
            assert metric(runtime.telemetry.render().decode(), 'gazeseg_shed_total{reason="slow-reader"}') == 1
            assert not wire.heads()

    run(scenario)


def test_a_full_house_refuses_frames_and_the_stream_goes_on(folder: Path) -> None:
    async def scenario() -> None:
        async with stream(folder, max_queue=1) as (wire, gate, runtime, edge):
            other = Wire(edge, "")
            other.put(7)
            await until(lambda: len(gate.jobs) == 1)
            wire.put(0)
            await until(lambda: len(wire.heads()) == 1)
            assert wire.heads()[0]["problem"]["code"] == "queue-full"
            runtime.held.force(10**12)
            wire.put(1)
            await until(lambda: len(wire.heads()) == 2)
            assert wire.heads()[1]["problem"]["code"] == "bytes-full"
            runtime.held.force(-(10**12))
            gate.open.set()
            await until(lambda: len(other.heads()) == 1)
            wire.put(2)
            await until(lambda: len(wire.heads()) == 3)
            assert wire.heads()[2]["media_type"] == "image/png"
            other.leave()
            await other.task

    run(scenario)


def test_a_frame_that_takes_too_long_is_a_problem_of_its_own(folder: Path) -> None:
    async def scenario() -> None:
        async with stream(folder, timeout_seconds=0.2) as (wire, gate, _, _edge):
            wire.put(0)
            await until(lambda: len(wire.heads()) == 1)
            assert wire.heads()[0]["problem"]["status"] == 504
            gate.open.set()
            wire.put(1)
            await until(lambda: len(wire.heads()) == 2)
            assert "problem" not in wire.heads()[1]

    run(scenario)


def test_streams_end_when_the_service_drains_or_when_nothing_comes(folder: Path) -> None:
    async def scenario() -> None:
        async with stream(folder, max_streams=2) as (wire, _, runtime, edge):
            runtime.admission.draining = True
            wire.put(0)
            await asyncio.wait_for(wire.task, 20)
            assert wire.closed() == 1012
            late = Wire(edge, "")
            await late.task
            assert late.sent[0]["status"] == 503
        async with stream(folder, idle_seconds=0.05) as (wire, _, _runtime, _edge):
            await asyncio.wait_for(wire.task, 20)
            assert wire.closed() == 1008

    run(scenario)


def test_no_more_streams_than_the_limit(folder: Path) -> None:
    async def scenario() -> None:
        async with stream(folder, max_streams=1) as (_, _gate, _runtime, edge):
            second = Wire(edge, "")
            await second.task
            assert second.sent[0]["status"] == 503
            assert b"streams-full" in second.sent[1]["body"]

    run(scenario)


def test_a_bug_ends_its_stream_with_1011(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with stream(folder) as (wire, _, runtime, _edge):

            async def broken(*_: Any, **__: Any) -> None:
                raise RuntimeError("a bug")

            runtime.pipeline.segment = broken  # type: ignore[method-assign, assignment]
            wire.put(0)
            await asyncio.wait_for(wire.task, 20)
            assert wire.closed() == 1011

    run(scenario)
    assert "a bug" in caplog.text
