"""SIGTERM: who comes after it is refused, the port is closed once, and then the server's own handler has its turn."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from types import FrameType, SimpleNamespace
from typing import Any, ClassVar

import pytest

pytest.importorskip("bentoml")
import uvicorn
from gated_service import until

from gazeseg_serve.service import drain
from gazeseg_serve.service.drain import drain_on_sigterm
from gazeseg_serve.service.limits import Admission
from gazeseg_serve.service.settings import Settings
from gazeseg_serve.service.telemetry import Telemetry


class Server(uvicorn.Server):
    """Remembers the signals on which it was told to stop, and whether the service had begun to drain."""

    def __init__(self, runtime: Any, *listeners: asyncio.Server) -> None:
        super().__init__(uvicorn.Config(lambda: None))
        self.runtime, self.servers = runtime, list(listeners)
        self.stopped: list[tuple[int, bool]] = []

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.stopped.append((sig, self.runtime.admission.draining))


class Ends:
    """In place of the watchdog, which would end this very process."""

    asked: ClassVar[list[float]] = []

    def end_within(self, seconds: float) -> None:
        self.asked.append(seconds)


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    Ends.asked.clear()
    monkeypatch.setattr(drain, "Watchdog", Ends)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # a signal too many must not end the tests
    yield
    signal.signal(signal.SIGTERM, before)


def a_runtime(grace: float = 20) -> Any:
    settings, given_up = Settings(drain_seconds=0.02, grace_seconds=grace), asyncio.Event()
    return SimpleNamespace(
        settings=settings, admission=Admission(settings, Telemetry()), give_up=given_up.set, given_up=given_up
    )


def sigterm() -> None:
    """What Python does when the signal comes. None is sent: with the native libraries that other tests have loaded, a real one
    has ended the process that runs them all; test_service_process.py sends it to a service.
    """
    handler = signal.getsignal(signal.SIGTERM)
    assert callable(handler)
    handler(signal.SIGTERM, None)


async def everything_else() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    async with asyncio.timeout(20):
        await asyncio.gather(*others)


@pytest.mark.usefixtures("handler")
def test_two_signals_are_one_drain() -> None:
    async def scenario() -> None:
        runtime = a_runtime()
        server = Server(runtime)
        signal.signal(signal.SIGTERM, server.handle_exit)
        drain_on_sigterm(runtime)
        assert not runtime.admission.draining
        sigterm()
        await until(lambda: runtime.admission.draining)
        sigterm()
        await until(lambda: len(server.stopped) > 0)
        await everything_else()
        assert server.stopped == [(signal.SIGTERM, True)]
        assert Ends.asked == [20], "the process ends by then, whatever hangs"
        assert not runtime.given_up.is_set()

    asyncio.run(scenario())


@pytest.mark.usefixtures("handler")
def test_the_port_is_open_while_it_drains_and_closed_before_the_server_stops() -> None:
    async def scenario() -> None:
        runtime = a_runtime()
        met: list[int] = []

        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            met.append(1)
            writer.close()
            await writer.wait_closed()

        seen: list[str] = []

        class Told(Server):
            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                seen.append("stopped")

        listener = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        told = Told(runtime, listener)
        signal.signal(signal.SIGTERM, told.handle_exit)
        drain_on_sigterm(runtime)
        sigterm()
        await until(lambda: runtime.admission.draining)
        _, writer = await asyncio.open_connection("127.0.0.1", port)  # a client that comes while it drains is heard
        await until(lambda: len(met) == 1)
        writer.close()

        async def refused() -> None:
            while True:
                try:
                    _, late = await asyncio.open_connection("127.0.0.1", port)
                except ConnectionError:
                    seen.append("refused")
                    return
                late.close()
                await asyncio.sleep(0.005)

        async with asyncio.timeout(20):
            await refused()
        await until(lambda: "stopped" in seen)
        assert seen == ["refused", "stopped"]
        listener.close()

    asyncio.run(scenario())


@pytest.mark.usefixtures("handler")
def test_where_no_uvicorn_listens_the_signal_is_left_alone() -> None:
    async def scenario() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        drain_on_sigterm(a_runtime())
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    asyncio.run(scenario())


@pytest.mark.usefixtures("handler")
def test_work_that_is_not_done_shortly_before_the_end_is_given_up() -> None:
    async def scenario() -> None:
        runtime = a_runtime(grace=0.5)
        server = Server(runtime)
        signal.signal(signal.SIGTERM, server.handle_exit)
        drain_on_sigterm(runtime)
        sigterm()
        async with asyncio.timeout(20):
            await runtime.given_up.wait()
        assert Ends.asked == [0.5]

    asyncio.run(scenario())
