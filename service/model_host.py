"""One artifact being served: its engine in threads of its own, behind adaptive batching, warmed up before use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gazeseg_serve.contract import Artifact
from gazeseg_serve.engines.base import Outputs
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.predictor import Predictor

from .cancel import gather_some
from .problems import busy
from .settings import Settings
from .telemetry import Telemetry

log = logging.getLogger("gazeseg_serve.service")

# The dispatcher sends its first eleven batches at sizes 1, 2 and 3, whatever waits, to learn the engine's speed.
_LEARNING_BATCHES = 11
_WARM_UP_SECONDS = 20.0
# On a CPU a batch is no faster than its images one by one, and the last to come waits for all of it.
_CPU_BATCH, _GPU_BATCH = 4, 32
_AT_ONCE = 2


@dataclass(slots=True)
class Job:
    """One prepared image `(size, size, C)` on its way to the engine; `gone` once nobody waits for it."""

    pixels: np.ndarray
    entered: float
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """Item `index` of a batch of `batch` images: the engine's outputs, and the seconds it waited and ran."""

    outputs: Outputs
    index: int
    batch: int
    wait: float
    engine: float


RunBatch = Callable[[Sequence[Job]], Coroutine[None, None, Sequence[Answer | None]]]


class Batching(Protocol):
    """Collects jobs into batches, runs them one batch at a time, and hands every job its own answer."""

    def submit(self, job: Job) -> Awaitable[Answer | None]: ...

    def close(self) -> None: ...


# (run, images in a batch at most, seconds after which a job is given up, batches under way at once)
MakeBatching = Callable[[RunBatch, int, float, int], Batching]


class ModelHost:
    """Serves the artifact in `folder` under `name`. `load` blocks; the rest belongs to the event loop."""

    def __init__(self, name: str, folder: Path, settings: Settings, telemetry: Telemetry, make_batching: MakeBatching) -> None:
        self.name, self.folder = name, folder
        self._settings, self._telemetry = settings, telemetry
        self._make_batching = make_batching
        self._batching: Batching | None = None
        self.max_batch = settings.max_batch
        self._engine_threads = [ThreadPoolExecutor(1, thread_name_prefix=f"engine-{name}") for _ in range(_AT_ONCE)]
        # The thread that was free last comes first: a lone client always meets the one whose caches are warm.
        self._free_threads: asyncio.LifoQueue[ThreadPoolExecutor] = asyncio.LifoQueue()
        for thread in self._engine_threads:
            self._free_threads.put_nowait(thread)
        self._waiting = 0
        self._largest = 0
        self._begun: dict[ThreadPoolExecutor, float] = {}
        self._predictor: Predictor | None = None
        self.warm = False

    @property
    def predictor(self) -> Predictor:
        if self._predictor is None:
            raise busy("starting", "the model is being loaded; try again", retry_after=2)
        return self._predictor

    @property
    def artifact(self) -> Artifact:
        artifact = self.predictor.artifact
        assert artifact is not None, "a served predictor comes from an artifact"
        return artifact

    def load(self) -> None:
        """Open the artifact. Raises ContractError, EngineError or MissingExtraError."""
        self._predictor = Predictor.open(self.folder, self._settings.device, self._settings.threads or self._settings.cpus_each)
        on_gpu = any(kind in self._predictor.engine.name for kind in ("cuda", "tensorrt"))
        self.max_batch = self._settings.max_batch or (_GPU_BATCH if on_gpu else _CPU_BATCH)
        # The next batch moves up while the last images of the one before are still computed; other engines take one call.
        at_once = _AT_ONCE if self._predictor.engine.name == "onnxruntime-cpu" else 1
        self._batching = self._make_batching(self._run, self.max_batch, self._settings.timeout_seconds, at_once)

    async def warm_up(self) -> None:
        """Send made-up images until the dispatcher has learned and a batch of more than one has been seen."""
        spec = self.predictor.spec
        blank = np.zeros((spec.size, spec.size, spec.channels), spec.dtype)
        for size in [1] * (_LEARNING_BATCHES - 2) + [2, 3]:
            await asyncio.gather(*[self.infer(blank) for _ in range(size)])
        started = time.perf_counter()
        sizes = [2**power for power in range(self.max_batch.bit_length())] * 3
        for size in sizes:
            await asyncio.gather(*[self.infer(blank) for _ in range(size)])
            if time.perf_counter() - started > _WARM_UP_SECONDS and self._largest > 1:
                break
        if self._largest <= 1 < self.max_batch:
            log.warning("model %s: no batch of more than one image was seen in the warm-up", self.name)
        self.warm = True

    @property
    def goes_straight(self) -> bool:
        """Whether small images are better run one by one, each by the thread that has it: on a CPU, unless batches of some
        size were asked for.
        """
        return self._settings.max_batch == 0 and self.predictor.engine.name == "onnxruntime-cpu"

    def run_straight(self, pixels: np.ndarray, all_cpus: bool) -> Outputs:
        """Run one prepared image in this thread, whatever others do, on all CPUs or on one. Raises EngineError."""
        engine = self.predictor.engine
        assert isinstance(engine, OnnxRuntimeEngine), "ask goes_straight first"
        outputs = engine.run_alone(pixels, all_cpus)
        if self.warm:
            self._telemetry.ran(self.name, 1)
        return outputs

    async def infer(self, pixels: np.ndarray) -> Answer:
        """Run one prepared image through the engine, with whatever else waits.

        Raises Problem 503 where the dispatcher gave the job up. Cancelling it takes the job out of its batch.
        """
        assert self._batching is not None, "load comes first"
        job = Job(pixels, time.perf_counter())
        task = asyncio.ensure_future(self._batching.submit(job))
        task.add_done_callback(_retrieve)
        self._set_waiting(1)
        try:
            # The dispatcher swallows cancellation, so it is shielded from it and told through the job instead.
            answer = await asyncio.shield(task)
        except asyncio.CancelledError:
            job.gone = True
            raise
        finally:
            self._set_waiting(-1)
        assert answer is not None, "only a job that is gone has no answer"
        return answer

    async def infer_all(self, images: Sequence[np.ndarray]) -> list[Answer]:
        """Run many prepared images, a batch's worth at a time, so that others come in between. Raises as `infer`."""
        return await gather_some([self.infer(pixels) for pixels in images], self.max_batch)

    async def _run(self, jobs: Sequence[Job]) -> Sequence[Answer | None]:
        live = [job for job in jobs if not job.gone]
        if not live:
            return [None] * len(jobs)
        thread = await self._free_threads.get()
        started = self._begun[thread] = time.perf_counter()
        try:
            loop = asyncio.get_running_loop()
            outputs, seconds = await loop.run_in_executor(thread, self._timed, [job.pixels for job in live])
        finally:
            del self._begun[thread]
            self._free_threads.put_nowait(thread)
        self._largest = max(self._largest, len(live))
        if self.warm:
            self._telemetry.ran(self.name, len(live))
        place = {id(job): index for index, job in enumerate(live)}
        return [
            Answer(outputs, place[id(job)], len(live), started - job.entered, seconds) if id(job) in place else None
            for job in jobs
        ]

    def _timed(self, pixels: list[np.ndarray]) -> tuple[Outputs, float]:
        started = time.perf_counter()
        outputs = self.predictor.run(pixels)
        return outputs, time.perf_counter() - started

    def oldest(self) -> float:
        """Seconds that the longest run of the engine now under way has taken."""
        now = time.perf_counter()
        return now - min(self._begun.values(), default=now)

    def _set_waiting(self, change: int) -> None:
        self._waiting += change
        self._telemetry.queue_depth.labels(self.name).set(self._waiting)

    def close(self) -> None:
        if self._batching is not None:
            self._batching.close()
        for thread in self._engine_threads:
            thread.shutdown(wait=True)


def _retrieve(task: asyncio.Future[Answer | None]) -> None:
    """Look at the exception of a task nobody waits for any more, so that asyncio does not complain of it."""
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()
