"""One request's way through the house: decode in a thread, the engine with others, encode in a thread."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import numpy as np

from gazeseg_serve.imaging import Limits, decode_image, encode_png
from gazeseg_serve.outputs import Rendered, render
from gazeseg_serve.predictor import Predictor

from .host import ModelHost
from .telemetry import Telemetry

T = TypeVar("T")


@dataclass(frozen=True)
class Wish:
    """What the client asked for."""

    output: str
    threshold: float
    disagreement: bool


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

    async def segment(self, host: ModelHost, data: bytes, wish: Wish) -> tuple[Rendered, Steps]:
        """Segment the image file `data`. Raises ImageError, ConfigError or Problem."""
        rendered, steps = await self._segment(host, data, wish)
        for name, value in steps.seconds.items():
            self._telemetry.steps.labels(name).observe(value)
        return rendered, steps

    async def _segment(self, host: ModelHost, data: bytes, wish: Wish) -> tuple[Rendered, Steps]:
        predictor = host.predictor
        artifact = predictor.artifact
        assert artifact is not None, "a served predictor comes from an artifact"
        started = time.perf_counter()
        (prepared, size, image), decode = await self._timed(
            lambda: _decode(predictor, data, self._limits, wish.output == "overlay"))
        answer = await host.infer(prepared)
        rendered, encode = await self._timed(
            lambda: render(predictor.finish(answer.outputs, answer.index, size), artifact, wish.output,
                           wish.threshold, wish.disagreement, image))
        total = time.perf_counter() - started
        wait = max(0.0, total - decode - answer.engine - encode)
        seconds = {"decode": decode, "wait": wait, "engine": answer.engine, "encode": encode, "total": total}
        return rendered, Steps(seconds, answer.batch)

    async def warm_up(self, host: ModelHost) -> None:
        """Decode, segment and encode one made-up image each way, so that no client waits for a lazy import."""
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


def _decode(predictor: Predictor, data: bytes, limits: Limits,
            keep: bool) -> tuple[np.ndarray, tuple[int, int], np.ndarray | None]:
    """The image as the network takes it, its own (height, width), and, where wanted, its own pixels."""
    image = decode_image(data, predictor.spec.channels, limits)
    return predictor.prepare(image), (image.shape[0], image.shape[1]), image if keep else None
