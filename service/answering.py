"""One request's way through the house: decode in a thread, the engine with others, encode in a thread."""

from __future__ import annotations

import asyncio
import gzip
import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from gazeseg_serve.errors import UnsupportedImage
from gazeseg_serve.imaging import decode_image, is_dicom
from gazeseg_serve.outputs import MEDIA_TYPES, Rendered, render
from gazeseg_serve.pixels import Limits, with_channels
from gazeseg_serve.png import encode_png
from gazeseg_serve.predictor import Predictor

from .model_host import Answer, ModelHost
from .telemetry import Telemetry

if TYPE_CHECKING:
    from pydicom import Dataset

T = TypeVar("T")
Size = tuple[int, int]
_GZIP_FROM = 1024  # bytes; under it the header costs more than is saved


@dataclass(frozen=True)
class Wish:
    """What the client asked for; `gzip` where a JSON answer may be compressed."""

    output: str
    threshold: float
    disagreement: bool
    gzip: bool = False


@dataclass(frozen=True)
class Reply:
    content: bytes
    media_type: str
    gzipped: bool = False


@dataclass
class Steps:
    """Seconds spent in each step; `wait` is what is left of the whole: waiting for a thread or for the engine."""

    seconds: dict[str, float] = field(default_factory=dict)
    batch: int = 0

    def server_timing(self) -> str:
        """The value of a Server-Timing header, in milliseconds."""
        timings = [f"{name};dur={seconds * 1000:.2f}" for name, seconds in self.seconds.items()]
        return ", ".join([*timings, f'batch;desc="{self.batch}"'])


class Pipeline:
    """Decodes and encodes in as many threads as there are cores, so that both stay off the event loop."""

    def __init__(self, limits: Limits, telemetry: Telemetry) -> None:
        self._limits, self._telemetry = limits, telemetry
        self._threads = ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="codec")

    async def segment(self, host: ModelHost, data: bytes, wish: Wish) -> tuple[Reply, Steps]:
        """Segment the image file `data`. Raises ImageError, ConfigError or Problem."""
        reply, steps = await (
            self.series(host, [data], wish) if wish.output == "dicom-seg" else self._segment(host, data, wish)
        )
        for name, value in steps.seconds.items():
            self._telemetry.steps.labels(name).observe(value)
        return reply, steps

    async def _segment(self, host: ModelHost, data: bytes, wish: Wish) -> tuple[Reply, Steps]:
        predictor, artifact = host.predictor, host.artifact
        started = time.perf_counter()
        (prepared, size, image), decode = await self._timed(
            lambda: _decode(predictor, data, self._limits, wish.output == "overlay")
        )
        answer = await host.infer(prepared)
        reply, encode = await self._timed(
            lambda: _reply(
                render(
                    predictor.finish(answer.outputs, answer.index, size),
                    artifact,
                    wish.output,
                    wish.threshold,
                    wish.disagreement,
                    image,
                ),
                wish,
            )
        )
        return reply, _steps(started, decode, answer.engine, encode, answer.batch)

    async def series(self, host: ModelHost, files: Sequence[bytes], wish: Wish) -> tuple[Reply, Steps]:
        """One DICOM SEG of a DICOM file, or of the slices of a series in their order. Raises ImageError or Problem."""
        predictor = host.predictor
        started = time.perf_counter()
        (prepared, sources), decode = await self._timed(lambda: _decode_series(predictor, files, self._limits))
        entered = time.perf_counter()
        answers = await host.infer_all(prepared)
        engine = time.perf_counter() - entered
        reply, encode = await self._timed(lambda: _segmentation(host, sources, answers, wish))
        return reply, _steps(started, decode, engine, encode, max(answer.batch for answer in answers))

    async def warm_up(self, host: ModelHost) -> None:
        """Decode, segment and encode one made-up image each way, so that no client waits for a lazy import."""
        if importlib.util.find_spec("highdicom") is not None:  # the dicom extra: two seconds that nobody should wait for
            await asyncio.to_thread(lambda: [importlib.import_module(name) for name in ("highdicom.seg", "pydicom.pixels")])
        grey = np.full((64, 64, 3), 127, np.uint8)
        for data in (encode_png(grey), cv2.imencode(".jpg", grey)[1].tobytes(), cv2.imencode(".tif", grey)[1].tobytes()):
            for output in ("json", "png"):
                await self._segment(host, data, Wish(output, 0.5, False))

    async def _timed(self, work: Callable[[], T]) -> tuple[T, float]:
        def timed() -> tuple[T, float]:
            started = time.perf_counter()
            return work(), time.perf_counter() - started

        return await asyncio.get_running_loop().run_in_executor(self._threads, timed)

    def close(self) -> None:
        self._threads.shutdown(wait=True)


def _decode(predictor: Predictor, data: bytes, limits: Limits, keep: bool) -> tuple[np.ndarray, Size, np.ndarray | None]:
    """The image as the network takes it, its own (height, width), and, where wanted, its pixels in 8 bit for a picture."""
    spec = predictor.spec
    image = decode_image(data, spec.channels, limits, spec.dtype)
    prepared, size = predictor.prepare(image), (image.shape[0], image.shape[1])
    if keep and spec.dtype != "uint8":
        image = decode_image(data, spec.channels, limits)
    return prepared, size, image if keep else None


def _decode_series(predictor: Predictor, files: Sequence[bytes], limits: Limits) -> tuple[list[np.ndarray], list[Dataset]]:
    from gazeseg_serve.dicom import decode_frames, read_dataset
    from gazeseg_serve.dicom_seg import check_series

    if not all(is_dicom(data) for data in files):
        raise UnsupportedImage("a DICOM SEG refers to DICOM images; send DICOM, or ask for another output")
    sources = [read_dataset(data, limits) for data in files]
    check_series(sources)
    prepared: list[np.ndarray] = []
    spec = predictor.spec
    for source in sources:
        prepared += [predictor.prepare(with_channels(frame, spec.channels)) for frame in decode_frames(source, spec.dtype)]
        del source.PixelData  # a series can be large, and the SEG needs the rest alone
    return prepared, sources


def _segmentation(host: ModelHost, sources: list[Dataset], answers: Sequence[Answer], wish: Wish) -> Reply:
    from gazeseg_serve.dicom_seg import segmentation

    size = int(sources[0].Rows), int(sources[0].Columns)
    masks = [host.predictor.finish(answer.outputs, answer.index, size).mask(wish.threshold) for answer in answers]
    return Reply(segmentation(sources, np.stack(masks), host.artifact, wish.threshold), MEDIA_TYPES["dicom-seg"])


def _reply(rendered: Rendered, wish: Wish) -> Reply:
    if wish.gzip and rendered.media_type == "application/json" and len(rendered.content) >= _GZIP_FROM:
        return Reply(gzip.compress(rendered.content, 5, mtime=0), rendered.media_type, gzipped=True)
    return Reply(rendered.content, rendered.media_type)


def _steps(started: float, decode: float, engine: float, encode: float, batch: int) -> Steps:
    total = time.perf_counter() - started
    return Steps(
        {
            "decode": decode,
            "wait": max(0.0, total - decode - engine - encode),
            "engine": engine,
            "encode": encode,
            "total": total,
        },
        batch,
    )
