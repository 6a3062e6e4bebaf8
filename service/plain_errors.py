"""Errors that other layers answer in plain text, or without a word, made problem documents like all the others."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .problems import of_status, response

_ABOUT_THE_BODY = ("content-type", "content-length", "transfer-encoding")


class ProblemsOnly:
    """ASGI app around `app`: an answer from 400 on that is no problem document keeps its headers and becomes one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        replaced = False

        async def checked(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] >= 400:
                headers = MutableHeaders(raw=list(message.get("headers", ())))
                if headers.get("content-type") != "application/problem+json":
                    replaced = True
                    for name in _ABOUT_THE_BODY:
                        del headers[name]
                    problem = of_status(message["status"], "", dict(headers))
                    await response(problem, scope)(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, checked)
