"""One connection of a client, beyond what uvicorn sees to: offers of HTTP/2, bodies that nobody reads, slow readers.

- An offer to go over to another protocol (`Upgrade: h2c`, which curl --http2 and Java's client make) is passed over, and
  the request answered over HTTP/1.1. uvicorn's parser takes what follows such a head for the other protocol, so the body
  would be lost.
- A body that still comes when its answer has been sent (413, say) is read and thrown away for some seconds, so that the
  client gets to the answer; then the connection is closed. uvicorn would wait for its rest for ever.
- A client that takes nothing of its answer for `write_seconds` is cut off.
- What is not HTTP is told so in the form of all other errors.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import httptools

from .head_limits import HeadLimits
from .runtime import Runtime
from .uvicorn_server import bound_streams, running_server, use_protocol

LINGER_SECONDS = 5.0
_LEAST_TAKEN = 64 * 1024  # bytes in `write_seconds`


def guard_connections(runtime: Runtime) -> None:
    """Make the uvicorn server of this process use `Connection`; elsewhere (in tests) it does nothing."""
    if (server := running_server()) is not None:
        use_protocol(server, lambda **options: Connection(runtime, **options))
        bound_streams(server, runtime.settings.max_frame_bytes)


class Connection(HeadLimits):
    """What uvicorn makes for each connection."""

    def __init__(self, runtime: Runtime, **options: Any) -> None:
        super().__init__(runtime, **options)
        self._write_seconds = runtime.settings.write_seconds
        self._receiving = False  # between a request's head and its last byte
        self._parting = False  # to be closed when the request has been read
        self._offered = False  # the head just read offers another protocol
        self._linger_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unsent = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        plug = transport.get_extra_info("socket")
        if plug is not None and hasattr(socket, "TCP_USER_TIMEOUT") and plug.family != socket.AF_UNIX:
            # The last bytes of an answer lie with the system, which would keep them for a client that does not read.
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2000 * self._write_seconds))

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._linger_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def feed(self, data: bytes) -> None:
        """As uvicorn's `data_received`, but for offers, errors and the keep-alive timer, which ends with a new request."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._offered:
                self.handle_websocket_upgrade()
                return
            self._offered = False
            head, rest = self._plain_head(), data[upgrade.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
            self.feed(head + rest)
        except httptools.HttpParserError:
            if not self.transport.is_closing():
                self.refuse(400, "not-http", "what came is not an HTTP/1.1 request")

    def _plain_head(self) -> bytes:
        """The head just read, without its offer; the parser has checked every line of it."""
        head = [b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        head += [b"%s: %s\r\n" % pair for pair in self.headers if pair[0] not in (b"upgrade", b"http2-settings")]
        return b"".join([*head, b"\r\n"])

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and not self._should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._offered = True
            return
        super().on_headers_complete()
        if self.parser.should_upgrade() and self._should_upgrade():
            return  # the rest is a WebSocket's
        self._receiving = True
        self.cycle.transport = _Parting(self, self.transport)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        if self._offered:
            return
        self._receiving = False
        super().on_message_complete()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        if self._parting:
            self.transport.close()

    def part(self) -> None:
        """The answer was the last on this connection: close it, once its request has been read."""
        self._parting = True
        if not self._receiving:
            self.transport.close()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._receiving and not self.transport.is_closing():
            linger = min(LINGER_SECONDS, self._write_seconds)
            self._linger_timer = self.loop.call_later(linger, self._stop_lingering)

    def _stop_lingering(self) -> None:
        self._linger_timer = None
        if self._receiving:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self._cut_off()
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _watch_reader(self) -> None:
        self._unsent = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(self._write_seconds, self._look_at_reader)

    def _look_at_reader(self) -> None:
        self._write_timer = None
        if self.transport.get_write_buffer_size() > self._unsent - _LEAST_TAKEN:
            self._cut_off()
        else:
            self._watch_reader()

    def _cut_off(self) -> None:
        self._shed.labels("slow-reader").inc()
        self.transport.abort()


class _Parting:
    """The transport as an answer sees it: whoever closes it with a request half read closes it when that is read."""

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        self._connection = connection
        self.write, self.is_closing = transport.write, transport.is_closing

    def close(self) -> None:
        self._connection.part()
