"""A client for the HTTP service; needs the `client` extra, and no torch.

    with Client("http://localhost:3000") as client:
        client.segment("photo.jpg").labels          # uint8 (H, W), 0 background, in the image's size
        client.describe("photo.jpg")                # {"classes": [{"area": 5120, "box": [...], ...}], ...}
        client.arrays("photo.jpg")                  # {"mask": uint8 (H, W), "probability": float32 (K, H, W)}
        client.overlay("photo.jpg")                 # uint8 (H, W, 3) RGB: the image with the mask painted in
        client.dicom_seg("slice.dcm")               # bytes of a DICOM Segmentation
        client.dicom_seg(["1.dcm", "2.dcm"])        # the same of a whole series
        client.batch(["a.jpg", "b.png"])            # [Mask, Mask]; a ServiceError in the place of an image refused
        client.model(), client.models()             # the model's card; the names of all models

An image is a path, the bytes of an image file (or a bytearray, a memoryview), a binary file object, pixels as uint8
`(H, W)`, `(H, W, 1)` or `(H, W, 3)` RGB, or a Pillow image; the last two are sent as PNG.

`AsyncClient` has the same methods to await. Everything they raise is a GazesegError: ServiceError for what the service or
the way to it does, ImageError for a source that cannot be sent, ConfigError for an argument that cannot be meant.
"""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from .client_answers import Mask, ServiceError, asked_pause, check
from .client_calls import Call, Calls, Source
from .errors import ConfigError, require

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncClient", "Client", "Mask", "ServiceError", "Source"]

T = TypeVar("T")
_RETRIED = (429, 503)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class _Base:
    """What both clients share: their options, and which try was the last."""

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


class Client(_Base):
    """Blocking client; use it as a context manager, or `close` it. Threads may share it."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._client: httpx.Client = self._connect(self._httpx.Client)

    def segment(self, source: Source, threshold: float | None = None, *, presence: float | None = None) -> Mask:
        """The mask of one image. threshold: a probability, default the model's own. presence: under it nothing is marked;
        default the model's own, 0 switches it off."""
        return self._send(self._calls.segment(source, threshold, presence))

    def describe(
        self, source: Source, threshold: float | None = None, disagreement: bool = False, *, presence: float | None = None
    ) -> dict[str, Any]:
        """The JSON answer: per class area, box, run lengths and polygons; mean disagreement, and its map where asked."""
        return self._send(self._calls.describe(source, threshold, disagreement, presence))

    def arrays(
        self, source: Source, threshold: float | None = None, disagreement: bool = False, *, presence: float | None = None
    ) -> dict[str, np.ndarray]:
        """`mask` uint8 `(H, W)`, `probability` float32 `(K, H, W)`, and `disagreement` float32 `(H, W)` where asked for."""
        return self._send(self._calls.arrays(source, threshold, disagreement, presence))

    def overlay(
        self, source: Source, threshold: float | None = None, disagreement: bool = False, *, presence: float | None = None
    ) -> np.ndarray:
        """uint8 `(H, W, 3)` RGB: the image with its mask, and the disagreement in red where asked for."""
        return self._send(self._calls.overlay(source, threshold, disagreement, presence))

    def dicom_seg(
        self, sources: Source | Sequence[Source], threshold: float | None = None, *, presence: float | None = None
    ) -> bytes:
        """The bytes of a DICOM Segmentation of one DICOM file, or of a list of the slices of one series."""
        return self._send(self._calls.dicom_seg(sources, threshold, presence))

    def batch(
        self, sources: Sequence[Source], threshold: float | None = None, *, presence: float | None = None
    ) -> list[Mask | ServiceError]:
        """The masks of several images in one request, in their order; a ServiceError in the place of an image refused."""
        return self._send(self._calls.batch(sources, threshold, presence))

    def model(self) -> dict[str, Any]:
        """The model's card."""
        return self._send(self._calls.model())

    def models(self) -> list[str]:
        """The names of the models served."""
        return self._send(self._calls.models())

    def _send(self, call: Call[T]) -> T:
        import time

        if self._client.is_closed:
            raise ConfigError("this client is closed; make another")
        for pause in self._pauses():
            try:
                outcome: Any = self._client.request(**call.request())
            except self._httpx.RequestError as error:
                outcome = error
            wait = self._pause_after(outcome, pause)
            if wait is None:
                break
            time.sleep(wait)
        return self._result(call, outcome)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Base):
    """The same to await; use it as an async context manager, or `aclose` it. Any number of calls may wait at once."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._client: httpx.AsyncClient = self._connect(self._httpx.AsyncClient)

    async def segment(self, source: Source, threshold: float | None = None, *, presence: float | None = None) -> Mask:
        """As Client.segment."""
        return await self._send(self._calls.segment(source, threshold, presence))

    async def describe(
        self, source: Source, threshold: float | None = None, disagreement: bool = False, *, presence: float | None = None
    ) -> dict[str, Any]:
        """As Client.describe."""
        return await self._send(self._calls.describe(source, threshold, disagreement, presence))

    async def arrays(
        self, source: Source, threshold: float | None = None, disagreement: bool = False, *, presence: float | None = None
    ) -> dict[str, np.ndarray]:
        """As Client.arrays."""
        return await self._send(self._calls.arrays(source, threshold, disagreement, presence))

    async def overlay(
        self, source: Source, threshold: float | None = None, disagreement: bool = False, *, presence: float | None = None
    ) -> np.ndarray:
        """As Client.overlay."""
        return await self._send(self._calls.overlay(source, threshold, disagreement, presence))

    async def dicom_seg(
        self, sources: Source | Sequence[Source], threshold: float | None = None, *, presence: float | None = None
    ) -> bytes:
        """As Client.dicom_seg."""
        return await self._send(self._calls.dicom_seg(sources, threshold, presence))

    async def batch(
        self, sources: Sequence[Source], threshold: float | None = None, *, presence: float | None = None
    ) -> list[Mask | ServiceError]:
        """As Client.batch."""
        return await self._send(self._calls.batch(sources, threshold, presence))

    async def model(self) -> dict[str, Any]:
        """As Client.model."""
        return await self._send(self._calls.model())

    async def models(self) -> list[str]:
        """As Client.models."""
        return await self._send(self._calls.models())

    async def _send(self, call: Call[T]) -> T:
        import asyncio

        if self._client.is_closed:
            raise ConfigError("this client is closed; make another")
        for pause in self._pauses():
            try:
                outcome: Any = await self._client.request(**call.request())
            except self._httpx.RequestError as error:
                outcome = error
            wait = self._pause_after(outcome, pause)
            if wait is None:
                break
            await asyncio.sleep(wait)
        return self._result(call, outcome)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


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
