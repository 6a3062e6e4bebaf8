"""The outermost layer: request id, keys, body limit, security headers, access log and metrics, for every route."""

from __future__ import annotations

import logging
import time
from collections.abc import MutableMapping
from contextlib import ExitStack
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import MULTIPART_ALLOWANCE, Admission, BodyLimit, Held
from .plain_errors import ProblemsOnly
from .problems import Problem, internal_error, request_id, response
from .runtime import Runtime
from .streams import Streams
from .tensors import HEADER

log = logging.getLogger("gazeseg_serve.access")

_AT_ONCE = 64 * 1024  # bytes of an answer that the server takes at once
# What every answer carries unless its route says otherwise; as bytes, for this is done for every request.
_DEFAULTS = [
    (name.lower().encode(), value.encode())
    for name, value in {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }.items()
]


class Edge:
    """ASGI app around `api`. Whatever escapes `api` is a bug: it is logged and answered with a problem document."""

    def __init__(self, api: ASGIApp, runtime: Runtime) -> None:
        settings = runtime.settings
        self._api, self._telemetry, self._keys = api, runtime.telemetry, runtime.keys
        self._admission, self._held = runtime.admission, runtime.held
        self.root_path = settings.root_path
        self._streams = Streams(runtime)
        self._limit = settings.max_bytes + MULTIPART_ALLOWANCE
        self._batch_limit = settings.max_batch_bytes + MULTIPART_ALLOWANCE
        self._app: ASGIApp = self._answer
        if settings.cors_origins:  # around everything, so that a page of another origin can read what was refused
            self._app = CORSMiddleware(
                self._answer,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["Authorization", "X-API-Key", "X-Request-Id", "Content-Type", "If-None-Match", HEADER],
                expose_headers=["X-Model-Id", "X-Request-Id", "X-Batch-Size", "Server-Timing", "ETag", "Retry-After", HEADER],
            )
        self._app = ProblemsOnly(self._app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._streams(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._api(scope, receive, send)
            return
        visit = scope["gazeseg.visit"] = Visit(scope, send, self._admission, self._held)
        try:
            await self._app(scope, receive, visit.send)
        finally:
            visit.leave()
            self._report(visit, scope)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        visit: Visit = scope["gazeseg.visit"]
        try:
            visit.client = self._check_key(scope)
            limit = self._batch_limit if scope["path"].endswith("/segment/batch") else self._limit
            visit.body = BodyLimit(receive, limit, visit.headers.get("content-length"), self._held)
            await self._api(scope, visit.body, send)
        except Problem as problem:
            await response(problem, scope)(scope, receive, send)
        except Exception:  # the edge of the process: a bug becomes a logged 500, and the next request is served
            log.exception("unexpected error", extra={"request_id": visit.id})
            if not visit.status:
                await response(internal_error(), scope)(scope, receive, send)

    def _check_key(self, scope: Scope) -> str:
        if scope["path"].startswith(("/v1/", "/v2/models/")) and scope["method"] != "OPTIONS":
            return self._keys.check(Request(scope))
        client = scope.get("client")
        return client[0] if client else "unknown"

    def _report(self, visit: Visit, scope: Scope) -> None:
        seconds = time.perf_counter() - visit.started
        # The pattern, never the raw path: clients choose that.
        route = getattr(scope.get("route"), "path", "") or "other"
        self._telemetry.count(route, visit.status or 499, seconds)
        log.info(
            "%s %s %d",
            scope["method"],
            route,
            visit.status or 499,
            extra={
                "request_id": visit.id,
                "method": scope["method"],
                "route": route,
                "status": visit.status or 499,
                "seconds": round(seconds, 6),
                "bytes_in": visit.body.seen if visit.body else 0,
                "bytes_out": visit.sent,
                "client": visit.client,
                "steps": visit.steps,
                "model": visit.model,
            },
        )


class Visit:
    """What is known of one request while it is under way, and what it holds there. Routes find it in the scope."""

    def __init__(self, scope: MutableMapping[str, Any], send: Send, admission: Admission, held: Held) -> None:
        self._send, self._admission, self._held = send, admission, held
        self.headers = Headers(scope=scope)
        self.id = request_id(self.headers)
        self.started = time.perf_counter()
        self.client = "refused"
        self.status = 0
        self.sent = 0
        self.body: BodyLimit | None = None
        self.model: str | None = None
        self.steps: dict[str, float] | None = None
        self._place = ExitStack()
        scope["gazeseg.request_id"] = self.id

    def enter(self) -> None:
        """Take a place in the house, which is given back when the answer has been sent. Raises as `Admission.enter`."""
        self._place.enter_context(self._admission.enter(self.client))

    def leave(self) -> None:
        """The answer has been sent, or nobody waits for it any more."""
        self._place.close()
        if self.body is not None:
            self.body.release()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.id.encode())]
            given = {name.lower() for name, _ in headers}
            headers += [pair for pair in _DEFAULTS if pair[0] not in given]
            if self._admission.draining and b"connection" not in given:
                headers.append((b"connection", b"close"))
            message["headers"] = headers
        elif message["type"] == "http.response.body":
            size = len(message.get("body", b""))
            self.sent += size
            if size > _AT_ONCE:
                # The server sends on when the client has taken nearly all; until then the answer is in memory.
                self._held.force(size)
                try:
                    await self._send({**message, "more_body": True})
                    message = {**message, "body": b""}
                    await self._send(message)
                finally:
                    self._held.force(-size)
                return
        await self._send(message)
