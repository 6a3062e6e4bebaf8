"""A limit in time and bytes for the head of a request, which uvicorn does not have.

Without it a client that sends a header's letter a minute holds its connection for good, and one whose head never ends
fills the memory. A body has its own limits (negotiate.py, limits.py).
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .problems import Problem
from .runtime import Runtime

HEAD_BYTES = 64 * 1024  # what h11, uvicorn's other parser, allows


class HeadLimits(HttpToolsProtocol):
    """One connection. Its head must be whole within `head_seconds` of the connection's or the request's first byte."""

    def __init__(self, runtime: Runtime, **options: Any) -> None:
        super().__init__(**options)
        self._head_seconds, self._shed = runtime.settings.head_seconds, runtime.telemetry.shed
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes, self._begun = 0, False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        watched = self._head_timer
        self.feed(data)
        if watched is None or self._head_timer is not watched:
            return  # the head ended or began in this piece, which may hold the end of a body, too
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES:
            self.refuse(431, "head-too-large", f"the request's head is over {HEAD_BYTES} bytes; send fewer headers")

    def feed(self, data: bytes) -> None:
        """Give the parser what has come."""
        super().data_received(data)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun = True
        self._begin_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def _begin_head(self) -> None:
        """A connection has been opened, or another request begins on it."""
        if self._head_timer is None:
            self._head_bytes = 0
            self._head_timer = self.loop.call_later(self._head_seconds, self._too_slow)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._begun = False

    def _too_slow(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # the answer before it is still to be sent
            self._head_timer = self.loop.call_later(self._head_seconds, self._too_slow)
        elif self._begun:
            self.refuse(408, "slow-head", f"the request's head did not come within {self._head_seconds:g} s")
        else:  # nothing was asked: a connection opened in advance
            self._end_head()
            self.transport.close()

    def refuse(self, status: int, code: str, detail: str) -> None:
        """Answer with a problem and close the connection: what comes on it cannot be read as requests any more."""
        self._end_head()
        self._shed.labels(code).inc()
        body = json.dumps(Problem(status, code, detail).document()).encode()
        self.transport.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/problem+json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
            + body
        )
        self.transport.close()
