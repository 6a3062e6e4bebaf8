"""The head of a request on one connection, without a network: its time and its size, by a clock that the test turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("bentoml")
import uvicorn
from gated_service import metric
from uvicorn.server import ServerState

from gazeseg_serve.service.connection import Connection
from gazeseg_serve.service.head_limits import HEAD_BYTES
from gazeseg_serve.service.telemetry import Telemetry

SECONDS = 7.0
GET = b"GET /livez HTTP/1.1\r\nHost: test\r\n"


class Timer:
    def __init__(self, seconds: float, call: Callable[[], None]) -> None:
        self.seconds, self.call, self.cancelled = seconds, call, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """The running loop, but its timers go off when the test says."""

    def __init__(self, real: asyncio.AbstractEventLoop) -> None:
        self._real = real
        self.timers: list[Timer] = []

    def call_later(self, seconds: float, call: Callable[..., None], *arguments: Any) -> Timer:
        timer = Timer(seconds, lambda: call(*arguments))
        self.timers.append(timer)
        return timer

    def pass_time(self) -> None:
        """Every timer that was set for the head's time goes off."""
        due = [t for t in self.timers if not t.cancelled and t.seconds == SECONDS]
        self.timers = [t for t in self.timers if t not in due]
        for timer in due:
            timer.call()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.9", 1), "sockname": ("10.0.0.1", 80)})
        self.sent, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Line:
    """A connection: what the client sends, what comes back, and the refusals that were counted."""

    def __init__(self, answered: bool = True) -> None:
        self.telemetry = Telemetry()
        self.go = asyncio.Event()
        if answered:
            self.go.set()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive()).get("more_body"):
                pass
            await self.go.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

        runtime: Any = SimpleNamespace(
            settings=SimpleNamespace(head_seconds=SECONDS, write_seconds=99.0), telemetry=self.telemetry
        )
        self.loop, self.wire = Loop(asyncio.get_running_loop()), Wire()
        config = uvicorn.Config(app, log_level="critical", timeout_keep_alive=75)
        config.load()
        self.protocol = Connection(runtime, config=config, server_state=ServerState(), app_state={}, _loop=self.loop)
        self.protocol.connection_made(self.wire)

    def send(self, data: bytes) -> None:
        if not self.wire.closed:
            self.protocol.data_received(data)

    async def answers(self, number: int) -> None:
        async with asyncio.timeout(10):
            while self.wire.sent.count(b"HTTP/1.1 200") < number:
                await asyncio.sleep(0)

    def refusals(self, code: str) -> float:
        return metric(self.telemetry.render().decode(), f'gazeseg_shed_total{{reason="{code}"}}')

    def refused(self, status: int, code: str) -> None:
        head, _, body = self.wire.sent.rpartition(b"\r\n\r\n")
        assert head.rpartition(b"HTTP/1.1 ")[2].startswith(b"%d " % status)
        assert b"content-type: application/problem+json" in head
        assert b"content-length: %d" % len(body) in head
        assert (json.loads(body)["status"], json.loads(body)["code"]) == (status, code)
        assert self.wire.closed
        assert self.refusals(code) == 1


def test_a_head_that_is_not_whole_in_time_is_408_and_counted() -> None:
    async def scenario() -> None:
        line = Line()
        line.send(GET)
        line.loop.pass_time()
        line.refused(408, "slow-head")

    asyncio.run(scenario())


def test_a_connection_on_which_nothing_was_asked_is_closed_without_a_word() -> None:
    async def scenario() -> None:
        line = Line()
        line.loop.pass_time()
        assert line.wire.closed
        assert line.wire.sent == b""
        assert line.refusals("slow-head") == 0

    asyncio.run(scenario())


def test_a_client_that_leaves_with_half_a_head_is_not_counted_as_slow() -> None:
    async def scenario() -> None:
        line = Line()
        line.send(GET)
        line.wire.closed = True
        line.protocol.connection_lost(None)
        line.loop.pass_time()
        assert line.wire.sent == b""
        assert line.refusals("slow-head") == 0

    asyncio.run(scenario())


def test_a_head_of_many_pieces_has_a_limit_in_bytes() -> None:
    async def scenario() -> None:
        line = Line()
        line.send(GET + b"X-Long: ")
        sent = 0
        while not line.wire.closed and sent < 2 * HEAD_BYTES:
            line.send(b"a" * 1024)
            sent += 1024
        line.refused(431, "head-too-large")
        assert HEAD_BYTES - 2048 <= sent <= HEAD_BYTES + 2048

    asyncio.run(scenario())


def test_the_limit_is_of_one_head_not_of_all_on_a_connection() -> None:
    """Ten requests with 10 KB of headers each are 100 KB on one connection, and none of them is too large."""

    async def scenario() -> None:
        line = Line()
        for number in range(1, 11):
            line.send(GET)
            for _ in range(10):
                line.send(b"X-Some: " + b"a" * 1000 + b"\r\n")
            line.send(b"\r\n")
            await line.answers(number)
        assert line.refusals("head-too-large") == 0
        assert not line.wire.closed

    asyncio.run(scenario())


def test_a_body_has_neither_limit() -> None:
    async def scenario() -> None:
        line = Line()
        line.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % (3 * HEAD_BYTES))
        for _ in range(3):
            line.loop.pass_time()
            line.send(b"b" * HEAD_BYTES)
        await line.answers(1)
        assert line.refusals("head-too-large") == line.refusals("slow-head") == 0

    asyncio.run(scenario())


def test_the_next_head_waits_for_the_answer_before_it_but_not_longer() -> None:
    async def scenario() -> None:
        line = Line(answered=False)
        line.send(GET + b"\r\n")
        line.send(GET)  # the next request begins before the first is answered
        line.loop.pass_time()
        assert not line.wire.closed, "the answer to the first would be lost"
        line.go.set()
        await line.answers(1)
        line.loop.pass_time()
        line.refused(408, "slow-head")

    asyncio.run(scenario())


def test_a_connection_that_rests_between_two_requests_is_left_to_the_keep_alive() -> None:
    async def scenario() -> None:
        line = Line()
        line.send(GET + b"\r\n")
        await line.answers(1)
        line.loop.pass_time()
        assert not line.wire.closed
        line.send(GET)
        line.loop.pass_time()
        line.refused(408, "slow-head")

    asyncio.run(scenario())
