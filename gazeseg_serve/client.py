"""A client for the HTTP service; needs the `client` extra, and no torch.

    with Client("http://localhost:3000") as client:
        mask = client.segment("photo.jpg")              # a path
        mask = client.segment(data)                     # the bytes of an image file
        mask = client.segment(pixels)                   # uint8 (H, W), (H, W, 1) or (H, W, 3) RGB, sent as PNG
        mask.labels                                     # uint8 (H, W)

`AsyncClient` has the same methods to await.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from .errors import GazesegError, ImageError, require
from .png import encode_png

if TYPE_CHECKING:
    import httpx

Source = str | Path | bytes | np.ndarray
_RETRIED = (429, 503)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


class ServiceError(GazesegError):
    """The service refused or could not be reached; `status` is 0 for the latter, `code` its stable word."""

    def __init__(self, message: str, status: int = 0, code: str = "unreachable") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Mask:
    """labels: uint8 `(H, W)` in the image's size, 0 background; model: the id of what made it; seconds: per step."""

    labels: np.ndarray
    model: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Call:
    """One request, ready to be sent as often as needed."""

    path: str
    content: bytes
    headers: dict[str, str]
    params: dict[str, str]


class _Base:
    """What both clients share: building requests, reading answers, and when to try again."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 5,
        model: str | None = None,
        transport: Any = None,
    ) -> None:
        """Make a client of the service at `url`.

        timeout: seconds for one try; retries: how often 429, 503 and lost connections are tried again, waiting as long
        as the service asks, else twice as long each time; model: a name from /v1/models, else the default;
        transport: an httpx transport, for tests.
        """
        self._httpx = require("httpx", "client")
        self._retries = retries
        self._prefix = "/v1" if model is None else f"/v1/models/{model}"
        self._options: dict[str, Any] = {
            "base_url": url,
            "timeout": timeout,
            "transport": transport,
            "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        }

    def _segment_call(self, source: Source, output: str, threshold: float | None, disagreement: bool = False) -> _Call:
        params = {"output": output} | ({} if threshold is None else {"threshold": repr(float(threshold))})
        if disagreement:
            params["disagreement"] = "true"
        return _Call(f"{self._prefix}/segment", _as_file(source), {"Content-Type": "application/octet-stream"}, params)

    def _pauses(self) -> Iterator[float]:
        """How long to wait before each retry, growing, with jitter so that clients do not come back all at once."""
        for attempt in range(self._retries):
            yield min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1.5)

    @staticmethod
    def _asked_pause(response: httpx.Response, pause: float) -> float:
        asked = response.headers.get("retry-after", "")
        return min(_LONGEST_PAUSE, max(pause, float(asked))) if asked.isdecimal() else pause

    @staticmethod
    def _check(response: httpx.Response) -> httpx.Response:
        """Raise ServiceError for an answer that is an error."""
        if response.is_success:
            return response
        detail: Mapping[str, Any] = {}
        if "json" in response.headers.get("content-type", ""):
            parsed = response.json()
            detail = parsed if isinstance(parsed, dict) else {}
        raise ServiceError(
            f"the service answered {response.status_code}: {detail.get('detail', response.reason_phrase)}",
            response.status_code,
            str(detail.get("code", "unknown")),
        )

    def _unreachable(self, error: Exception) -> ServiceError:
        return ServiceError(
            f"{self._options['base_url']} cannot be reached ({error or type(error).__name__}); is the service running?"
        )


class Client(_Base):
    """Blocking client; use it as a context manager, or `close` it. Threads may share it."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._client: httpx.Client = self._httpx.Client(**self._options)

    def segment(self, source: Source, threshold: float | None = None) -> Mask:
        """The mask of one image. Raises ServiceError, or ImageError where the source cannot be sent."""
        return _as_mask(self._send(self._segment_call(source, "png", threshold)))

    def describe(self, source: Source, threshold: float | None = None, disagreement: bool = False) -> dict[str, Any]:
        """The JSON answer: per class area, box, run lengths and polygons. Raises as `segment` does."""
        return dict(self._send(self._segment_call(source, "json", threshold, disagreement)).json())

    def arrays(self, source: Source, threshold: float | None = None, disagreement: bool = False) -> dict[str, np.ndarray]:
        """`mask` uint8 `(H, W)`, `probability` float32 `(K, H, W)`, and `disagreement` float32 `(H, W)` where asked for."""
        return _as_arrays(self._send(self._segment_call(source, "npz", threshold, disagreement)))

    def model(self) -> dict[str, Any]:
        """The model's card. Raises ServiceError."""
        return dict(self._send(self._model_call()).json())

    def _model_call(self) -> _Call:
        return _Call("/v1/model" if self._prefix == "/v1" else self._prefix, b"", {}, {})

    def _send(self, call: _Call) -> httpx.Response:
        import time

        method = "POST" if call.content else "GET"
        for pause in [*self._pauses(), None]:
            try:
                response = self._client.request(
                    method, call.path, content=call.content or None, headers=call.headers, params=call.params
                )
            except self._httpx.TransportError as error:
                if pause is None:
                    raise self._unreachable(error) from error
                time.sleep(pause)
                continue
            if response.status_code not in _RETRIED or pause is None:
                return self._check(response)
            time.sleep(self._asked_pause(response, pause))
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Base):
    """The same to await; use it as an async context manager, or `aclose` it."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._client: httpx.AsyncClient = self._httpx.AsyncClient(**self._options)

    async def segment(self, source: Source, threshold: float | None = None) -> Mask:
        """As Client.segment."""
        return _as_mask(await self._send(self._segment_call(source, "png", threshold)))

    async def describe(self, source: Source, threshold: float | None = None, disagreement: bool = False) -> dict[str, Any]:
        """As Client.describe."""
        return dict((await self._send(self._segment_call(source, "json", threshold, disagreement))).json())

    async def arrays(self, source: Source, threshold: float | None = None, disagreement: bool = False) -> dict[str, np.ndarray]:
        """As Client.arrays."""
        return _as_arrays(await self._send(self._segment_call(source, "npz", threshold, disagreement)))

    async def _send(self, call: _Call) -> httpx.Response:
        import asyncio

        for pause in [*self._pauses(), None]:
            try:
                response = await self._client.post(call.path, content=call.content, headers=call.headers, params=call.params)
            except self._httpx.TransportError as error:
                if pause is None:
                    raise self._unreachable(error) from error
                await asyncio.sleep(pause)
                continue
            if response.status_code not in _RETRIED or pause is None:
                return self._check(response)
            await asyncio.sleep(self._asked_pause(response, pause))
        raise AssertionError("the last try returns or raises")

    async def aclose(self) -> None:
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _as_file(source: Source) -> bytes:
    """The bytes to send. Raises ImageError."""
    if isinstance(source, bytes):
        return source
    if isinstance(source, np.ndarray):
        fits = source.dtype == np.uint8 and (source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (1, 3)))
        if not fits or source.size == 0:
            raise ImageError(f"pixels are uint8 (H, W), (H, W, 1) or (H, W, 3), not {source.dtype} {source.shape}")
        return encode_png(source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source)
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ImageError(f"{source}: {error.strerror or error}") from error


def _as_mask(response: httpx.Response) -> Mask:
    with Image.open(io.BytesIO(response.content), formats=("PNG",)) as picture:
        labels = np.asarray(picture).astype(np.uint8)  # 1 bit: False, True; palette: the index is the label
    return Mask(labels, response.headers.get("x-model-id", ""), _seconds(response.headers.get("server-timing", "")))


def _as_arrays(response: httpx.Response) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(response.content), allow_pickle=False) as stored:
        return dict(stored)


def _seconds(header: str) -> dict[str, float]:
    parts = (part.strip().partition(";dur=") for part in header.split(","))
    return {name: float(value) / 1000 for name, mark, value in parts if mark}
