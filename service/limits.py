"""Who may come in, and how many at once: body size, API keys, the queue, one client's share of it."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.requests import Request
from starlette.types import Message, Receive

from gazeseg_serve.errors import ConfigError

from .problems import Problem, busy
from .settings import Settings
from .telemetry import Telemetry

# Boundaries and part headers around the image of a multipart body.
MULTIPART_ALLOWANCE = 64 * 1024


class BodyLimit:
    """Wraps `receive` and raises 413 as soon as more than `limit` bytes have come, or are announced."""

    def __init__(self, receive: Receive, limit: int, announced: str | None) -> None:
        self._receive, self._limit, self._seen = receive, limit, 0
        if announced is not None and announced.isdecimal() and int(announced) > limit:
            raise too_large(limit)

    @property
    def seen(self) -> int:
        return self._seen

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            if self._seen > self._limit:
                raise too_large(self._limit)
        return message


def too_large(limit: int) -> Problem:
    # The rest of the body is not read, so the connection cannot be used again.
    return Problem(
        413, "body-too-large", f"the body is over the limit of {limit} bytes; send a smaller file", {"Connection": "close"}
    )


class Keys:
    """API keys, kept as digests and compared in constant time. No keys at all: everyone may come in."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    @classmethod
    def load(cls, settings: Settings) -> Keys:
        """Keys of the settings and of the key file, one a line, `#` starts a comment. Raises ConfigError."""
        keys = [key.get_secret_value() for key in settings.api_keys]
        if settings.api_keys_file is not None:
            keys += _read_keys(settings.api_keys_file)
            if not keys:
                raise ConfigError(f"{settings.api_keys_file} holds no key; the service would be open to everyone")
        return cls(keys)

    def check(self, request: Request) -> str:
        """The client's name for counting: a digest of its key, else its address. Raises 401."""
        if not self._digests:
            return request.client.host if request.client else "unknown"
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")
        digest = hashlib.sha256(given.strip().encode()).digest()
        # No early exit: the time must not tell which key came near.
        known = [hmac.compare_digest(digest, mine) for mine in self._digests]
        if not any(known):
            raise Problem(
                401,
                "no-key" if not given else "wrong-key",
                "send a valid key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                {"WWW-Authenticate": "Bearer"},
            )
        return "key-" + digest.hex()[:8]


class Admission:
    """Counts the requests in the house, and turns the rest away at once."""

    def __init__(self, settings: Settings, telemetry: Telemetry) -> None:
        self._max, self._share = settings.max_queue, max(1, int(settings.max_queue * settings.client_share))
        self._held: Counter[str] = Counter()
        self._telemetry = telemetry
        self.total = 0
        self.draining = False

    @contextmanager
    def enter(self, client: str) -> Iterator[None]:
        """Hold one place while the block runs. Raises 503 (draining, or full) or 429 (over the client's share)."""
        if self.draining:
            self._telemetry.shed.labels("draining").inc()
            raise Problem(
                503,
                "draining",
                "the service is shutting down; send the request again",
                {"Retry-After": "5", "Connection": "close"},
            )
        if self.total >= self._max:
            self._telemetry.shed.labels("queue-full").inc()
            raise busy("queue-full", f"{self._max} requests are being worked on, which is the limit; try again")
        if self._held[client] >= self._share:
            self._telemetry.shed.labels("client-share").inc()
            raise busy("client-share", f"this client has {self._share} requests under way, which is its share", status=429)
        self.total += 1
        self._held[client] += 1
        self._telemetry.in_flight.inc()
        try:
            yield
        finally:
            self.total -= 1
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]
            self._telemetry.in_flight.dec()


def _read_keys(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key file {path} cannot be read ({error})") from error
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
