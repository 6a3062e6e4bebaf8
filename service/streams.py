"""Who may open a stream, and what becomes of it: keys, origin, limits, close codes, log and metrics."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from .limits import draining
from .problems import Problem, busy, internal_error, request_id, response
from .runtime import Runtime
from .stream import Close, Stream
from .stream_wire import KEY_PROTOCOL, PROTOCOL, parse_query

log = logging.getLogger("gazeseg_serve.access")

BROKEN = 1011
_CLOSE_SECONDS = 1.0  # for the close frame to go out
_PATH = re.compile(r"/v1(/models/(?P<name>[^/]{1,200}))?/stream")


class Streams:
    """ASGI app for WebSockets. What is refused before a stream is open is an HTTP answer, a problem document as elsewhere."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, settings = runtime, runtime.settings
        self._max, self._share = settings.max_streams, max(1, int(settings.max_streams * settings.client_share))
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        socket, started, status = WebSocket(scope, receive, send), time.perf_counter(), 101
        identity = scope["gazeseg.request_id"] = request_id(socket.headers)
        client, route, stream = "refused", "other", None
        if (await socket.receive())["type"] != "websocket.connect":
            return
        try:
            found = _PATH.fullmatch(scope["path"])
            if found is None:
                raise Problem(404, "not-found", "streams are at /v1/stream and /v1/models/NAME/stream")
            route = "/v1/stream" if found["name"] is None else "/v1/models/{name}/stream"
            client = self._runtime.keys.check(socket, _offered_key(socket))
            self._check_origin(socket)
            query = parse_query(socket.query_params)
            host = self._runtime.host(found["name"] or self._runtime.default)
            with self._place(client):
                stream = Stream(self._runtime, host, socket, query, client)
                await socket.accept(PROTOCOL if PROTOCOL in scope["subprotocols"] else None)
                await _run(stream, socket, identity)
        except Problem as problem:
            status = problem.status
            with contextlib.suppress(WebSocketDisconnect, OSError):  # the client has left already
                await socket.send_denial_response(response(problem, scope))
        finally:
            self._runtime.telemetry.requests.labels(route, str(status)).inc()
            counts = {} if stream is None else {"frames": [stream.answered, stream.dropped, stream.refused]}
            told = {"request_id": identity, "method": "WS", "route": route, "status": status, "client": client, **counts}
            log.info("WS %s %d", route, status, extra={**told, "seconds": round(time.perf_counter() - started, 6)})

    @contextmanager
    def _place(self, client: str) -> Iterator[None]:
        """Hold one place while the block runs. Raises Problem 503 (draining, or full) or 429 (over the client's share)."""
        telemetry = self._runtime.telemetry
        if self._runtime.admission.draining:
            telemetry.shed.labels("draining").inc()
            raise draining()
        if self._open.total() >= self._max:
            telemetry.shed.labels("streams-full").inc()
            raise busy("streams-full", f"{self._max} streams are open, which is the limit; try again", retry_after=5)
        if self._open[client] >= self._share:
            telemetry.shed.labels("client-share").inc()
            raise busy("client-share", f"this client has {self._share} streams open, which is its share", 5, status=429)
        self._open[client] += 1
        telemetry.streams.inc()
        try:
            yield
        finally:
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]
            telemetry.streams.dec()

    def _check_origin(self, socket: WebSocket) -> None:
        """A page of another origin may open a WebSocket to anywhere, and only the server can refuse it. Raises Problem 403."""
        origin, allowed = socket.headers.get("origin"), self._runtime.settings.cors_origins
        if origin is None or "*" in allowed or origin in allowed:
            return
        if urlsplit(origin).netloc.lower() != socket.headers.get("host", "").lower():
            raise Problem(403, "foreign-origin", "pages of this origin may not open streams; see GAZESEG_CORS_ORIGINS")


async def _run(stream: Stream, socket: WebSocket, identity: str) -> None:
    """Run it to its end, and tell the client why, where it is not the client that ended it."""
    code, reason = 1000, ""
    try:
        await stream.run()
    except Close as close:
        code, reason = close.code, str(close)
    except Exception:  # the edge of the process: a bug ends this stream, and the others go on
        logging.getLogger("gazeseg_serve.service").exception("unexpected error", extra={"request_id": identity})
        code, reason = BROKEN, internal_error().detail
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError, TimeoutError):  # it has left, or takes nothing
        async with asyncio.timeout(_CLOSE_SECONDS):
            await socket.close(code, reason[:120])


def _offered_key(socket: WebSocket) -> str:
    """The key in a subprotocol `gazeseg.key.` and base64url of it in UTF-8; empty where there is none."""
    for protocol in socket.scope["subprotocols"]:
        if protocol.startswith(KEY_PROTOCOL):
            text = protocol.removeprefix(KEY_PROTOCOL)
            with contextlib.suppress(binascii.Error, ValueError):
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8").encode().decode("latin-1")
    return ""
