"""The short way to `POST /v1/segment` for a request that asks for nothing but the mask: no query, no condition.

FastAPI and its layers take longer to find out that nothing is given than the service takes for all the rest of its HTTP
work. What comes this way is answered by the same function; everything else goes on to FastAPI.
"""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from . import problems
from .runtime import Runtime
from .segment import segment_one

_PATH = "/v1/segment"


class PlainRequests:
    """ASGI app around `api`, which has the route."""

    def __init__(self, api: FastAPI, runtime: Runtime) -> None:
        self._api, self._runtime = api, runtime
        self._route = next(route for route in api.routes if isinstance(route, APIRoute) and route.path == _PATH)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _PATH or scope["method"] != "POST" or scope["query_string"]:
            await self._api(scope, receive, send)
            return
        scope["route"], scope["app"] = self._route, self._api  # by these the log and a broken form know where they are
        request, host = Request(scope, receive, send), self._runtime.host(self._runtime.default)
        try:
            response = await segment_one(self._runtime, host, request, None, None, False, None, False)
        except problems.EXPECTED as error:
            response = problems.of_error(error, scope)
        await response(scope, receive, send)
