"""Behind a proxy that passes paths on whole: `/gaze/v1/segment` is `/v1/segment` here."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


def without_prefix(app: ASGIApp, root_path: str) -> ASGIApp:
    """`app` with `root_path` taken off a request's path; `app` itself where that is empty.

    Paths without the prefix are answered as they are, for the probes and whoever else comes past the proxy. The
    bare prefix is sent on to the page, whose relative URLs need the slash.
    """
    if not root_path:
        return app

    async def stripped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and scope["path"] == root_path:
            await RedirectResponse(root_path + "/", 308)(scope, receive, send)
            return
        if scope["type"] != "lifespan" and scope["path"].startswith(root_path + "/"):
            scope = {**scope, "path": scope["path"].removeprefix(root_path)}
        await app(scope, receive, send)

    return stripped
