"""An orderly end: on SIGTERM no request that was sent is left without an answer."""

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

_LOOKS = 10_000
_SETTLE_SECONDS = 0.5  # for clients that were connected and are still sending


def drain_on_sigterm(runtime: Runtime) -> None:
    """From SIGTERM on: refuse new requests for a while (503), close the port, let the last answers out, stop.

    To be called on the event loop of a uvicorn worker; elsewhere (in tests) it does nothing. A load balancer sees
    /readyz turn false first. Closing the port means for every process that shares it: the supervisor holds the socket,
    too, and would keep letting clients in with nobody to answer them.
    """
    stop = signal.getsignal(signal.SIGTERM)
    server = getattr(stop, "__self__", None)
    if not callable(stop) or not isinstance(server, uvicorn.Server):
        return
    loop = asyncio.get_running_loop()

    async def drain(number: int, frame: FrameType | None) -> None:
        await asyncio.sleep(runtime.settings.drain_seconds)
        await _stop_listening(server)
        await asyncio.sleep(_SETTLE_SECONDS)
        stop(number, frame)

    def begin(number: int, frame: FrameType | None) -> None:
        if runtime.admission.draining:
            return
        runtime.admission.draining = True
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
