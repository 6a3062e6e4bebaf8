"""What both clients share: their options, when a call is tried again, and what is said when it is not."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from .client_answers import ServiceError, asked_pause, check
from .client_calls import Call, Calls
from .client_stream import Address
from .errors import ConfigError, require

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
_RETRIED = (429, 503)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class Base:
    """The options of a client, its calls and its tries; what it sends with is its child's."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        model: str | None = None,
        transport: Any = None,
    ) -> None:
        """Make a client of the service at `url`, as http://localhost:3000.

        timeout: seconds until a connection stands, and between two bytes of an answer; retries: how often 429, 503 and
        lost connections are tried again, waiting as long as the service asks (no longer than 10 s: more is given back as
        the error), else twice as long each time; model: a name from /v1/models, else the default; transport: an httpx
        transport, for tests. Raises ConfigError.
        """
        self._httpx = require("httpx", "client")
        if not timeout > 0:
            raise ConfigError(f"timeout {timeout!r}; give seconds, more than 0")
        if not isinstance(retries, int) or retries < 0:
            raise ConfigError(f"retries {retries!r}; give a number of tries after the first, 0 or more")
        self._url, self._retries, self._calls = self._checked(url), retries, Calls(model)
        # Waiting for one of the client's own connections is no failure, however many wait.
        self._timeout = timeout
        limit = self._httpx.Timeout(timeout, pool=None)
        self._options: dict[str, Any] = {
            "base_url": self._url, "timeout": limit, "transport": transport, "headers": _key_header(api_key),
        }  # fmt: skip

    def _checked(self, url: str) -> httpx.URL:
        try:
            parsed = self._httpx.URL(url)
        except (self._httpx.InvalidURL, TypeError) as error:
            raise ConfigError(f"{url!r} is no address of a service ({error}); write it as http://localhost:3000") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"{url!r} is no address of a service; write it as http://localhost:3000")
        return parsed

    def _connect(self, kind: Any) -> Any:
        try:
            return kind(**self._options)
        except (ValueError, OSError, self._httpx.InvalidURL) as error:  # a proxy or certificates named in the environment
            raise ConfigError(f"no client can be made ({error}); see HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE") from error

    def _stream_address(self) -> Address:
        """Where this client's frames go."""
        base = str(self._url.copy_with(scheme={"http": "ws", "https": "wss"}[self._url.scheme])).rstrip("/")
        return Address(base + self._calls.stream_path, self._options["headers"], self._timeout)

    def _pauses(self) -> Iterator[float | None]:
        """How long to wait after each try, growing, with jitter so that clients do not come back all at once; at last
        None."""
        for attempt in range(self._retries):
            yield min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1.5)
        yield None

    def _pause_after(self, outcome: httpx.Response | httpx.RequestError, pause: float | None) -> float | None:
        """The seconds until the next try after this outcome; None where it was the last, or no try can do better."""
        if pause is None:
            return None
        if isinstance(outcome, Exception):
            return pause if self._may_pass(outcome) else None
        if outcome.status_code not in _RETRIED:
            return None
        asked = asked_pause(outcome) or 0.0
        return None if asked > _LONGEST_PAUSE else min(_LONGEST_PAUSE, max(pause, asked))

    def _may_pass(self, error: httpx.RequestError) -> bool:
        """Whether it is a connection that did not come about or broke, and not a name, certificate or time that is wrong."""
        lost = (self._httpx.NetworkError, self._httpx.RemoteProtocolError, self._httpx.ConnectTimeout)
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLError):
                return False
            if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
                return False
        return isinstance(error, lost)

    def _result(self, call: Call[T], outcome: httpx.Response | httpx.RequestError) -> T:
        """What the last try gave. Raises ServiceError."""
        if isinstance(outcome, Exception):
            raise self._failure(outcome) from outcome
        return call.read(check(outcome))

    def _failure(self, error: httpx.RequestError) -> ServiceError:
        if isinstance(error, self._httpx.TimeoutException):
            return ServiceError(f"{self._url} did not answer in time ({type(error).__name__}); give a longer timeout",
                                code="timeout")  # fmt: skip
        if isinstance(error, self._httpx.DecodingError):
            return ServiceError(f"{self._url} answered what cannot be unpacked ({error})", code="bad-answer")
        return ServiceError(f"{self._url} cannot be reached ({error or type(error).__name__}); is the service running?")


def _key_header(key: str | None) -> dict[str, bytes]:
    if not key:
        return {}
    if not isinstance(key, str) or any(ord(letter) < 32 or ord(letter) == 127 for letter in key):
        raise ConfigError("the API key holds a line end or another control character; give the key alone")
    return {"Authorization": f"Bearer {key}".encode()}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came of: httpx wraps what httpcore wraps, down to the system's own."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
