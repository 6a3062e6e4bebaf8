"""An orderly end: on SIGTERM no request that was sent is left without an answer, and the end comes in time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
from types import FrameType

import uvicorn

from .runtime import Runtime
from .uvicorn_server import running_server
from .watchdog import Watchdog

_LOOKS = 10_000
_SETTLE_SECONDS = 0.5  # for clients that were connected and are still sending
_LAST_SHARE = 0.1  # of the grace time: for the last answers to go out, once work has been given up


def drain_on_sigterm(runtime: Runtime) -> None:
    """From SIGTERM on: refuse new requests for a while (503), close the port, let the last answers out, stop.

    Work that is not done shortly before `grace_seconds` is given up (503); at their end the process has ended. To be
    called on the event loop of a uvicorn worker; elsewhere (in tests) it does nothing. A load balancer sees /readyz turn
    false first. Closing the port means for every process that shares it: the supervisor holds the socket, too, and would
    keep letting clients in with nobody to answer them.
    """
    server = running_server()
    if server is None:
        return
    stop = server.handle_exit
    loop, watchdog, grace = asyncio.get_running_loop(), Watchdog(), runtime.settings.grace_seconds

    async def drain(number: int, frame: FrameType | None) -> None:
        loop.call_later(grace * (1 - _LAST_SHARE), runtime.give_up)
        await asyncio.sleep(min(runtime.settings.drain_seconds, grace / 2))
        await _stop_listening(server)
        await asyncio.sleep(min(_SETTLE_SECONDS, grace / 10))
        stop(number, frame)

    def begin(number: int, frame: FrameType | None) -> None:
        if runtime.admission.draining:
            return
        runtime.admission.draining = True
        watchdog.end_within(grace)
        tasks.append(asyncio.run_coroutine_threadsafe(drain(number, frame), loop))

    tasks: list[object] = []  # the loop itself keeps only weak references
    signal.signal(signal.SIGTERM, begin)


async def _stop_listening(server: uvicorn.Server) -> None:
    """Close the port at a moment when nobody waits to be accepted: who waits then would be cut off unheard."""
    for listener in server.servers:
        for listening in listener.sockets:
            with socket.socket(fileno=os.dup(listening.fileno())) as shared:
                for _ in range(_LOOKS):
                    if not select.select([shared], [], [], 0)[0]:
                        break
                    await asyncio.sleep(0)
                with contextlib.suppress(OSError):  # another worker was first
                    shared.shutdown(socket.SHUT_RDWR)
