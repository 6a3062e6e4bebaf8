"""The short way to `POST /v1/segment` without parameters, the request that nearly all clients send.

FastAPI's seven layers and its reading of parameters that are not there are a sixth of the event loop's time
(docs/performance.md). The handler is the same, and so are its answers, to the byte; any other request goes to FastAPI.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from .problems import EXPECTED, of_error
from .runtime import Runtime
from .segment import segment_one

PATH = "/v1/segment"


class Shortcut:
    """ASGI app around `api`. Where browsers of other origins are let in, everything needs FastAPI's CORS headers."""

    def __init__(self, api: ASGIApp, runtime: Runtime) -> None:
        self._api, self._runtime = api, runtime
        self._open = not runtime.settings.cors_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        plain = scope["type"] == "http" and scope["path"] == PATH and not scope["query_string"]
        if plain and self._open and scope["method"] == "POST":
            scope["gazeseg.route"] = PATH
            scope["app"] = self._api  # by it Starlette knows that its errors are answered here
            try:
                answer = await segment_one(
                    self._runtime, self._runtime.host(self._runtime.default), Request(scope, receive), None, None, False
                )
            except EXPECTED as error:
                answer = of_error(error, scope["gazeseg.request_id"])
            await answer(scope, receive, send)
        else:
            await self._api(scope, receive, send)
