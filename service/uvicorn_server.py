"""What BentoML gives no setting for: the uvicorn server that it has started in this process, and how to change it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import uvicorn


def running_server() -> uvicorn.Server | None:
    """The uvicorn server of this process, by its signal handler; None elsewhere, as in tests.

    To be called on its event loop, before anything else takes the signal.
    """
    handler = signal.getsignal(signal.SIGTERM)
    server = getattr(handler, "__self__", None)
    return server if isinstance(server, uvicorn.Server) else None


def use_protocol(server: uvicorn.Server, make: Callable[..., asyncio.Protocol]) -> None:
    """Let `make(**options)` be what the server makes for each connection. To be called before it listens, as at startup."""

    def protocol(**options: Any) -> asyncio.Protocol:
        return make(**options)

    server.config.http_protocol_class = protocol  # type: ignore[assignment]


def bound_streams(server: uvicorn.Server, max_bytes: int) -> None:
    """The largest message of a WebSocket, longer ones end it with 1009. Images are compressed, so messages are not."""
    server.config.ws_max_size = max_bytes
    server.config.ws_per_message_deflate = False
