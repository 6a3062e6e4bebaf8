"""One request's way through the house: decoded, run by the engine with others, encoded.

Small plain images are decoded and encoded in threads of this process, which is fastest; all others, and what makes
large answers, in processes that can be killed (codec_pool.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import get_ident
from typing import IO, TypeVar

import cv2
import numpy as np

from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.outputs import OF_DICOM
from gazeseg_serve.png import encode_png

from .cancel import gather_some
from .codec_pool import CodecPool, Done
from .codec_tasks import Content, OutputOptions, Purpose, SeriesLimits, Size, compare, encode, pack_mask, prepare
from .limits import Held
from .model_host import Answer, ModelHost
from .peek import Peek, peek
from .settings import Settings
from .steps import Steps, steps_of
from .straight import go_straight
from .telemetry import Telemetry
from .tensors import parse, render

T = TypeVar("T")
_THREAD_PIXELS = 2**21  # of an answer that is made in a thread
_ENCODE_BYTES = 20  # a pixel of an answer at the most, while it is made
_SERIES_BYTES = 6  # a pixel of a series: its labels, and what highdicom makes of them


@dataclass(frozen=True)
class Reply:
    """An answer's content, in memory or, where it is large, in a file without a name."""

    media_type: str
    content: bytes = b""
    file: IO[bytes] | None = None
    size: int = 0
    gzipped: bool = False
    tag: str = ""  # the ETag, where it was made on the way


# (what the engine gave, the image's size, what is asked for) -> the same, with the frames before counted in
Steadied = Callable[[Answer, Size, OutputOptions], tuple[Answer, OutputOptions]]


class Pipeline:
    """Raises ImageError, ConfigError or Problem from all that segments. Belongs to one event loop."""

    def __init__(self, settings: Settings, telemetry: Telemetry, held: Held) -> None:
        self._limits, self._telemetry, self._held = settings.limits, telemetry, held
        self._together = SeriesLimits(settings.max_images, settings.max_batch_pixels)
        self.places = settings.cpus_each
        self._threads = ThreadPoolExecutor(self.places, thread_name_prefix="codec")
        self._begun: dict[int, float] = {}
        self._going_straight = 0
        self.codecs = CodecPool(max(2, self.places), settings.codec_bytes)

    def oldest(self) -> float:
        """Seconds that the longest work now done in a thread has taken so far; processes are killed in time."""
        now = time.perf_counter()
        return now - min(list(self._begun.values()), default=now)

    async def segment(
        self, host: ModelHost, data: bytes, options: OutputOptions, patient: bool = False, steadied: Steadied | None = None
    ) -> tuple[Reply, Steps]:
        """Segment the image file `data`. patient: wait for a turn however many wait; steadied: of the stream it is from."""
        if options.output in OF_DICOM:
            return await self.series(host, [data], options, patient)
        reply, steps = await self._segment(host, data, options, patient, steadied)
        self._telemetry.took(steps.seconds)
        if steps.distance is not None:
            self._telemetry.distance.labels(host.name).observe(steps.distance)
        return reply, steps

    async def _segment(
        self, host: ModelHost, data: bytes, options: OutputOptions, patient: bool, steadied: Steadied | None = None
    ) -> tuple[Reply, Steps]:
        started = time.perf_counter()
        about = peek(data, self._limits.max_pixels)
        if about.plain and host.goes_straight and steadied is None:
            return await self._straight(host, data, options, started)
        prepared, size, decoding = await self._prepare(host, data, about, patient, options)
        options, distance = compare(host.artifact, prepared, options)
        answer = await host.infer(prepared)
        if steadied is not None:
            given, asked, mend = answer, options, steadied
            (answer, options), _ = await self._in_thread(lambda: mend(given, size, asked))
        reply, encoding = await self._encode(host, answer, size, options, data, about)
        return reply, steps_of(started, decoding, answer.engine, encoding, answer.batch, distance)

    async def _straight(self, host: ModelHost, data: bytes, options: OutputOptions, started: float) -> tuple[Reply, Steps]:
        self._going_straight += 1
        try:
            (content, parts), _ = await self._in_thread(
                lambda: go_straight(host, data, options, self._limits, lambda: self._going_straight == 1)
            )
        finally:
            self._going_straight -= 1
        reply = dataclasses.replace(_reply(content), tag=parts.tag)
        return reply, steps_of(started, parts.decode, parts.engine, parts.encode, 1, parts.distance)

    async def _prepare(
        self, host: ModelHost, data: bytes, about: Peek, patient: bool, options: OutputOptions
    ) -> tuple[np.ndarray, Size, float]:
        """The image as the network takes it, its own size, and the seconds that took."""
        spec = host.predictor.spec
        if about.plain:
            (prepared, size), seconds = await self._in_thread(
                lambda: prepare(spec, data, self._limits, Purpose(host.artifact.intended_use, options.force))
            )
            return prepared, size, seconds
        arguments = {**self._arguments(host), **_purpose(host, options)}
        done = await self.codecs.run("prepare", arguments, [data], memory=about.memory, patient=patient)
        return _image(done.blobs[0], host), _size(done), done.seconds

    async def _encode(
        self, host: ModelHost, answer: Answer, size: Size, options: OutputOptions, data: bytes, about: Peek
    ) -> tuple[Reply, float]:
        artifact, outputs, index = host.artifact, answer.outputs, answer.index
        pictured = options.output == "overlay"
        if size[0] * size[1] <= _THREAD_PIXELS and (about.plain or not pictured):
            content, seconds = await self._in_thread(
                lambda: encode(artifact, outputs, index, size, options, data, self._limits)
            )
            return _reply(content), seconds
        shapes, blobs = _item(answer)
        arguments = {
            **self._arguments(host),
            "artifact": dataclasses.asdict(artifact),
            "shapes": shapes,
            "size": size,
            "options": dataclasses.asdict(options),
            "pictured": pictured,
        }
        memory = size[0] * size[1] * _ENCODE_BYTES
        done = await self.codecs.run("encode", arguments, [*blobs, data] if pictured else blobs, memory=memory, begun=True)
        return _received(done), done.seconds

    async def series(
        self, host: ModelHost, files: Sequence[bytes], options: OutputOptions, patient: bool = False
    ) -> tuple[Reply, Steps]:
        """One DICOM SEG or SR of a DICOM file, or of the slices of a series."""
        started = time.perf_counter()
        arguments = {**self._arguments(host), **_purpose(host, options), "together": dataclasses.asdict(self._together)}
        memory, _ = await self._in_thread(lambda: sum(peek(data, self._limits.max_pixels).memory for data in files))
        read = await self.codecs.run("prepare_series", arguments, files, memory=memory, patient=patient)
        size, frames = _size(read), read.blobs
        with self._held.take(sum(map(len, frames))):
            entered = time.perf_counter()

            async def one(place: int) -> tuple[bytes, int]:
                answer = await host.infer(_image(frames[place], host))
                frames[place] = b""
                return await self._packed(host, answer, size, options), answer.batch

            masks = await gather_some([one(place) for place in range(len(frames))], host.max_batch)
            engine = time.perf_counter() - entered
        arguments = {
            "artifact": dataclasses.asdict(host.artifact),
            "masks": len(masks),
            "size": size,
            "options": dataclasses.asdict(options),
        }
        memory = len(masks) * size[0] * size[1] * _SERIES_BYTES
        made = await self.codecs.run(
            "encode_series", arguments, [*(mask for mask, _ in masks), *files], memory=memory, begun=True
        )
        steps = steps_of(started, read.seconds, engine, made.seconds, max(batch for _, batch in masks))
        self._telemetry.took(steps.seconds)
        return _received(made), steps

    async def _packed(self, host: ModelHost, answer: Answer, size: Size, options: OutputOptions) -> bytes:
        if size[0] * size[1] <= _THREAD_PIXELS:
            artifact, outputs, index = host.artifact, answer.outputs, answer.index
            return (await self._in_thread(lambda: pack_mask(artifact, outputs, index, size, options)))[0]
        shapes, blobs = _item(answer)
        arguments = {
            "artifact": dataclasses.asdict(host.artifact),
            "shapes": shapes,
            "size": size,
            "options": dataclasses.asdict(options),
        }
        memory = size[0] * size[1] * _ENCODE_BYTES
        return (await self.codecs.run("pack_mask", arguments, blobs, memory=memory, begun=True)).blobs[0]

    async def tensors(self, host: ModelHost, body: bytes, json_bytes: int) -> tuple[Reply, int | None, Steps]:
        """Answer a request of the Open Inference Protocol; beside the reply, how many bytes of it are JSON, None for all."""
        started = time.perf_counter()
        asked, parsing = await self._in_thread(lambda: parse(host.artifact, body, json_bytes, self._together.frames))
        found = {
            tensor.name: np.empty((len(asked.images), *map(int, tensor.axes[1:])), np.float32)
            for tensor in host.artifact.outputs
        }
        with self._held.take(sum(array.nbytes for array in found.values())):
            entered = time.perf_counter()

            async def one(place: int) -> tuple[float, int]:
                answer = await host.infer(asked.images[place])
                for name, array in found.items():
                    array[place] = getattr(answer.outputs, name)[answer.index]
                return answer.engine, answer.batch

            runs = await gather_some([one(place) for place in range(len(asked.images))], host.max_batch)
            # Of one image the time of its run, of several that of all, with the waiting in between.
            engine = runs[0][0] if len(runs) == 1 else time.perf_counter() - entered
            (content, told), rendering = await self._in_thread(lambda: render(host.name, asked, found))
        steps = steps_of(started, parsing, engine, rendering, max(batch for _, batch in runs))
        self._telemetry.took(steps.seconds)
        kind = "application/json" if told is None else "application/octet-stream"
        return Reply(kind, content, None, len(content)), told, steps

    async def warm_up(self, host: ModelHost) -> None:
        """Decode, segment and encode one made-up image each way, so that no client waits for what is loaded late."""
        grey = np.full((64, 64, 3), 127, np.uint8)
        for data in (encode_png(grey), cv2.imencode(".jpg", grey)[1].tobytes(), cv2.imencode(".tif", grey)[1].tobytes()):
            for output in ("json", "png"):
                await self._segment(host, data, OutputOptions(output, 0.5, False), patient=True)

    def _arguments(self, host: ModelHost) -> dict[str, object]:
        return {"spec": dataclasses.asdict(host.predictor.spec), "limits": dataclasses.asdict(self._limits)}

    async def _in_thread(self, work: Callable[[], T]) -> tuple[T, float]:
        """The result of `work`, and the seconds it took without waiting for a thread."""

        def timed() -> tuple[T, float]:
            started = self._begun[get_ident()] = time.perf_counter()
            try:
                return work(), time.perf_counter() - started
            finally:
                del self._begun[get_ident()]

        return await asyncio.get_running_loop().run_in_executor(self._threads, timed)

    def close(self) -> None:
        self.codecs.close()
        self._threads.shutdown(wait=True)


def _purpose(host: ModelHost, options: OutputOptions) -> dict[str, object]:
    return {"purpose": dataclasses.asdict(Purpose(host.artifact.intended_use, options.force))}


def item_of(answer: Answer) -> Outputs:
    """What the engine gave for one image of its batch, alone."""
    place, spread = slice(answer.index, answer.index + 1), answer.outputs.disagreement
    return Outputs(answer.outputs.probability[place], None if spread is None else spread[place])


def _item(answer: Answer) -> tuple[list[tuple[int, ...]], list[bytes]]:
    """Shapes and bytes of what the engine gave for one image of its batch."""
    item = item_of(answer)
    arrays = [array for array in (item.probability, item.disagreement) if array is not None]
    return [array.shape for array in arrays], [array.tobytes() for array in arrays]


def _image(blob: bytes, host: ModelHost) -> np.ndarray:
    spec = host.predictor.spec
    return np.frombuffer(blob, spec.dtype).reshape(spec.size, spec.size, spec.channels)


def _size(done: Done) -> Size:
    height, width = done.header["size"]
    return int(height), int(width)


def _reply(content: Content) -> Reply:
    return Reply(content.media_type, content.data, None, len(content.data), content.gzipped)


def _received(done: Done) -> Reply:
    media_type, gzipped = str(done.header["media_type"]), bool(done.header["gzipped"])
    if done.file is not None:
        return Reply(media_type, b"", done.file, int(done.header["file"]), gzipped)
    return Reply(media_type, done.blobs[0], None, len(done.blobs[0]), gzipped)
