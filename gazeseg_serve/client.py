"""A client for the HTTP service; needs the `client` extra, and no torch.

    with Client("http://localhost:3000") as client:
        client.segment("photo.jpg").labels          # uint8 (H, W), 0 background, in the image's size
        client.describe("photo.jpg")                # {"classes": [{"area": 5120, "box": [...], ...}], ...}
        client.arrays("photo.jpg")                  # {"mask": uint8 (H, W), "probability": float32 (K, H, W)}
        client.overlay("photo.jpg")                 # uint8 (H, W, 3) RGB: the image with the mask painted in
        client.dicom_seg("slice.dcm")               # bytes of a DICOM Segmentation
        client.dicom_seg(["1.dcm", "2.dcm"])        # the same of a whole series
        client.dicom_sr("slice.dcm")                # bytes of a DICOM Structured Report: count and areas
        client.batch(["a.jpg", "b.png"])            # [Mask, Mask]; a ServiceError in the place of an image refused
        client.stream(frames)                       # a mask a frame of a video, over one connection: see StreamMask
    client.model(), client.models()             # the model's card; the names of all models

An image is a path, the bytes of an image file (or a bytearray, a memoryview), a binary file object, pixels as uint8
`(H, W)`, `(H, W, 1)` or `(H, W, 3)` RGB, or a Pillow image; the last two are sent as PNG.

`AsyncClient` has the same methods to await. Everything they raise is a GazesegError: ServiceError for what the service or
the way to it does, ImageError for a source that cannot be sent, ConfigError for an argument that cannot be meant.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from .client_answers import Mask, ServiceError
from .client_base import Base
from .client_calls import Call, Query, Source
from .client_stream import StreamMask, StreamOptions, stream, stream_async
from .errors import ConfigError

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncClient", "Client", "Mask", "ServiceError", "Source", "StreamMask", "StreamOptions"]

T = TypeVar("T")


class Client(Base):
    """Blocking client; use it as a context manager, or `close` it. Threads may share it."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._client: httpx.Client = self._connect(self._httpx.Client)

    def segment(
        self, source: Source, threshold: float | None = None, *, presence: float | None = None, force: bool = False
    ) -> Mask:
        """The mask of one image. threshold: a probability, default the model's own. presence: under it nothing is marked;
        default the model's own, 0 switches it off. force: DICOM of a kind that the model is not for, too."""
        return self._send(self._calls.segment(source, Query(threshold, False, presence, force)))

    def describe(
        self,
        source: Source,
        threshold: float | None = None,
        disagreement: bool = False,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        """The JSON answer: per class area, box, run lengths and polygons; mean disagreement, and its map where asked."""
        return self._send(self._calls.describe(source, Query(threshold, disagreement, presence, force)))

    def arrays(
        self,
        source: Source,
        threshold: float | None = None,
        disagreement: bool = False,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> dict[str, np.ndarray]:
        """`mask` uint8 `(H, W)`, `probability` float32 `(K, H, W)`, and `disagreement` float32 `(H, W)` where asked for."""
        return self._send(self._calls.arrays(source, Query(threshold, disagreement, presence, force)))

    def overlay(
        self,
        source: Source,
        threshold: float | None = None,
        disagreement: bool = False,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> np.ndarray:
        """uint8 `(H, W, 3)` RGB: the image with its mask, and the disagreement in red where asked for."""
        return self._send(self._calls.overlay(source, Query(threshold, disagreement, presence, force)))

    def dicom_seg(
        self,
        sources: Source | Sequence[Source],
        threshold: float | None = None,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> bytes:
        """The bytes of a DICOM Segmentation of one DICOM file, or of a list of the slices of one series."""
        return self._send(self._calls.dicom(sources, "dicom-seg", Query(threshold, False, presence, force)))

    def dicom_sr(
        self,
        sources: Source | Sequence[Source],
        threshold: float | None = None,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> bytes:
        """The bytes of a DICOM Structured Report (TID 1500) of the same: lesion count, and areas."""
        return self._send(self._calls.dicom(sources, "dicom-sr", Query(threshold, False, presence, force)))

    def batch(
        self, sources: Sequence[Source], threshold: float | None = None, *, presence: float | None = None, force: bool = False
    ) -> list[Mask | ServiceError]:
        """The masks of several images in one request, in their order; a ServiceError in the place of an image refused."""
        return self._send(self._calls.batch(sources, Query(threshold, False, presence, force)))

    def stream(
        self,
        frames: Iterable[tuple[float, Source]],
        options: StreamOptions = StreamOptions(),  # noqa: B008  (frozen)
    ) -> Iterator[StreamMask]:
        """Send frames, (time in seconds, image) each, over one WebSocket; one StreamMask a frame comes back.

        `frames` is gone through in a thread of its own, three ahead of the answers at the most. What it raises is raised
        here. Raises ServiceError where the stream cannot be opened or ends before the last answer. Not tried again.
        """
        return stream(self._stream_address(), frames, options)

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
        """Close the connections; `with Client(url) as client:` does it by itself."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(Base):
    """The same to await; use it as an async context manager, or `aclose` it. Any number of calls may wait at once."""

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._client: httpx.AsyncClient = self._connect(self._httpx.AsyncClient)

    async def segment(
        self, source: Source, threshold: float | None = None, *, presence: float | None = None, force: bool = False
    ) -> Mask:
        """As Client.segment."""
        return await self._send(self._calls.segment(source, Query(threshold, False, presence, force)))

    async def describe(
        self,
        source: Source,
        threshold: float | None = None,
        disagreement: bool = False,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> dict[str, Any]:
        """As Client.describe."""
        return await self._send(self._calls.describe(source, Query(threshold, disagreement, presence, force)))

    async def arrays(
        self,
        source: Source,
        threshold: float | None = None,
        disagreement: bool = False,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> dict[str, np.ndarray]:
        """As Client.arrays."""
        return await self._send(self._calls.arrays(source, Query(threshold, disagreement, presence, force)))

    async def overlay(
        self,
        source: Source,
        threshold: float | None = None,
        disagreement: bool = False,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> np.ndarray:
        """As Client.overlay."""
        return await self._send(self._calls.overlay(source, Query(threshold, disagreement, presence, force)))

    async def dicom_seg(
        self,
        sources: Source | Sequence[Source],
        threshold: float | None = None,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> bytes:
        """As Client.dicom_seg."""
        return await self._send(self._calls.dicom(sources, "dicom-seg", Query(threshold, False, presence, force)))

    async def dicom_sr(
        self,
        sources: Source | Sequence[Source],
        threshold: float | None = None,
        *,
        presence: float | None = None,
        force: bool = False,
    ) -> bytes:
        """As Client.dicom_sr."""
        return await self._send(self._calls.dicom(sources, "dicom-sr", Query(threshold, False, presence, force)))

    async def batch(
        self, sources: Sequence[Source], threshold: float | None = None, *, presence: float | None = None, force: bool = False
    ) -> list[Mask | ServiceError]:
        """As Client.batch."""
        return await self._send(self._calls.batch(sources, Query(threshold, False, presence, force)))

    async def stream(
        self,
        frames: Iterable[tuple[float, Source]] | AsyncIterable[tuple[float, Source]],
        options: StreamOptions = StreamOptions(),  # noqa: B008  (frozen)
    ) -> AsyncIterator[StreamMask]:
        """As Client.stream; `frames` may be an async iterable, and is gone through in a task."""
        async with contextlib.aclosing(stream_async(self._stream_address(), frames, options)) as answers:
            async for answer in answers:
                yield answer

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
        """Close the connections; `async with AsyncClient(url) as client:` does it by itself."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
