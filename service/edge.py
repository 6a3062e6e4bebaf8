"""The outermost layer: request id, keys, body limit, security headers, access log and metrics, for every route."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import MULTIPART_ALLOWANCE, Admission, BodyLimit, Keys
from .problems import Problem, internal_error, response
from .settings import Settings
from .telemetry import Telemetry

log = logging.getLogger("gazeseg_serve.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
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
    """ASGI app around `app`. Whatever escapes `app` is a bug: it is logged and answered with a problem document."""

    def __init__(self, app: ASGIApp, settings: Settings, telemetry: Telemetry, keys: Keys, admission: Admission) -> None:
        self._app, self._telemetry, self._keys, self._admission = app, telemetry, keys, admission
        self._limit = settings.max_bytes + MULTIPART_ALLOWANCE
        self._batch_limit = settings.max_batch_bytes + MULTIPART_ALLOWANCE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, send, self._admission)
        try:
            client = self._check_key(scope)
            limit = self._batch_limit if scope["path"].endswith("/segment/batch") else self._limit
            body = BodyLimit(receive, limit, visit.headers.get("content-length"))
            visit.body = body
            scope["gazeseg.client"] = client
            await self._app(scope, body, visit.send)
        except Problem as problem:
            await response(problem, visit.id)(scope, receive, visit.send)
        except Exception:  # the edge of the process: a bug becomes a logged 500, and the next request is served
            log.exception("unexpected error", extra={"request_id": visit.id})
            if not visit.status:
                await response(internal_error(), visit.id)(scope, receive, visit.send)
        finally:
            self._report(visit, scope)

    def _check_key(self, scope: Scope) -> str:
        if scope["path"].startswith("/v1/") and scope["method"] != "OPTIONS":
            return self._keys.check(Request(scope))
        client = scope.get("client")
        return client[0] if client else "unknown"

    def _report(self, visit: _Visit, scope: Scope) -> None:
        seconds = time.perf_counter() - visit.started
        # The pattern, never the raw path: clients choose that.
        route = scope.get("gazeseg.route") or getattr(scope.get("route"), "path", "") or "other"
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
                "client": scope.get("gazeseg.client", "refused"),
                "steps": scope.get("gazeseg.steps"),
                "model": scope.get("gazeseg.model"),
            },
        )


class _Visit:
    """What is known of one request while it is in the house."""

    def __init__(self, scope: MutableMapping[str, Any], send: Send, admission: Admission) -> None:
        self._send, self._admission = send, admission
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.started = time.perf_counter()
        self.status = 0
        self.sent = 0
        self.body: BodyLimit | None = None
        scope["gazeseg.request_id"] = self.id

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
            self.sent += len(message.get("body", b""))
        await self._send(message)
