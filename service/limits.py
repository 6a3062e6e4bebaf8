"""How much may be in the house at once: requests, one client's share of them, and the bytes that they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Message, Receive

from .problems import Problem, busy
from .settings import Settings
from .telemetry import Telemetry

# Boundaries and part headers around the image of a multipart body.
MULTIPART_ALLOWANCE = 64 * 1024


class Held:
    """Counts the bytes in memory of all requests: bodies, prepared frames of series, answers on their way out."""

    def __init__(self, limit: int, telemetry: Telemetry) -> None:
        self._limit, self._telemetry = limit, telemetry
        self.total = 0

    def add(self, count: int) -> None:
        """Raises Problem 503 where that is too much; what is there already, such as an answer, is added with `force`."""
        if self.total + count > self._limit:
            self._telemetry.shed.labels("bytes-full").inc()
            raise busy("bytes-full", f"the requests being worked on hold {self._limit} bytes, which is the limit; try again")
        self.force(count)

    def force(self, count: int) -> None:
        self.total += count

    @contextmanager
    def take(self, count: int) -> Iterator[None]:
        """Hold `count` bytes while the block runs. Raises as `add`."""
        self.add(count)
        try:
            yield
        finally:
            self.force(-count)


class BodyLimit:
    """Wraps `receive`: raises 413 as soon as more than `limit` bytes have come, or are announced, and 503 as `held` does."""

    def __init__(self, receive: Receive, limit: int, announced: str | None, held: Held) -> None:
        self._receive, self._limit, self._held = receive, limit, held
        self.seen = 0
        if announced is not None and announced.isdecimal() and int(announced) > limit:
            raise too_large(limit)

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            if self.seen + count > self._limit:
                raise too_large(self._limit)
            self._held.add(count)
            self.seen += count
        return message

    def release(self) -> None:
        """The body is no longer in memory. To be called once."""
        self._held.force(-self.seen)


def too_large(limit: int) -> Problem:
    return Problem(413, "body-too-large", f"the body is over the limit of {limit} bytes; send a smaller file")


class Admission:
    """Counts the requests under way, and turns the rest away at once."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._max, self._share = settings.max_queue, max(1, int(settings.max_queue * settings.client_share))
        self._places: Counter[str] = Counter()
        self._telemetry = telemetry
        self.total = 0
        self.draining = False

    @contextmanager
    def enter(self, client: str) -> Iterator[None]:
        """Hold one place while the block runs. Raises 503 (draining, or full) or 429 (over the client's share)."""
        if self.draining:
            self._telemetry.shed.labels("draining").inc()
            raise draining()
        if self.total >= self._max:
            self._telemetry.shed.labels("queue-full").inc()
            raise busy("queue-full", f"{self._max} requests are being worked on, which is the limit; try again")
        if self._places[client] >= self._share:
            self._telemetry.shed.labels("client-share").inc()
            raise busy("client-share", f"this client has {self._share} requests under way, which is its share", status=429)
        self.total += 1
        self._places[client] += 1
        self._telemetry.in_flight.inc()
        try:
            yield
        finally:
            self.total -= 1
            self._places[client] -= 1
            if not self._places[client]:
                del self._places[client]
            self._telemetry.in_flight.dec()


def draining() -> Problem:
    headers = {"Retry-After": "5", "Connection": "close"}
    return Problem(503, "draining", "the service is shutting down; send the request again", headers)
