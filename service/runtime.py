"""What lives as long as the process: models, threads, counters; and whether it is ready, draining or broken."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import cv2

from gazeseg_serve.errors import ConfigError, GazesegError

from .answering import Pipeline
from .keys import Keys
from .limits import Admission, Held, draining
from .memory import bound_heaps
from .model_host import MakeBatching, ModelHost
from .problems import Problem
from .settings import Settings
from .telemetry import Telemetry
from .watchdog import tell_supervisor

log = logging.getLogger("gazeseg_serve.service")

_LOST_AFTER = 4  # times the longest that anybody waits


class Runtime:
    """Made when the service is defined (cheap); `start` loads the models; `stop` ends the threads.

    Raises ConfigError where the settings name no artifact.
    """

    def __init__(self, settings: Settings, make_batching: MakeBatching) -> None:
        self.settings = settings
        self.telemetry = Telemetry()
        self.admission = Admission(settings, self.telemetry)
        self.held = Held(settings.held_bytes, self.telemetry)
        self.keys = Keys.load(settings)
        self._make_batching = make_batching
        self._hosts: dict[str, ModelHost] = {}
        self._loading: asyncio.Task[None] | None = None
        self._limits: set[asyncio.Timeout] = set()
        self._given_up = False

    @property
    def default(self) -> str:
        """The name of the model behind the routes that name none."""
        return next(iter(self.settings.folders()), "default")

    def host(self, name: str) -> ModelHost:
        """Raises Problem 404 for a name that is not served."""
        if name not in self._hosts:
            raise Problem(404, "no-such-model", f"no model is called {name!r}; served here: {', '.join(self._hosts)}")
        return self._hosts[name]

    @property
    def hosts(self) -> dict[str, ModelHost]:
        return dict(self._hosts)

    def start(self) -> None:
        """Begin to load and warm up the models beside the event loop; `is_ready` tells when it is done."""
        folders = self.settings.folders()
        if not folders:
            raise ConfigError("no artifact to serve; set GAZESEG_ARTIFACT, or run: gazeseg-serve serve ARTIFACT")
        # One image a thread: OpenCV's own threads would only wait for each other and for the engine's.
        cv2.setNumThreads(1)
        bound_heaps()
        self.pipeline = Pipeline(self.settings, self.telemetry, self.held)
        self.pipeline.codecs.start()
        self._hosts = {
            name: ModelHost(name, folder, self.settings, self.telemetry, self._make_batching)
            for name, folder in folders.items()
        }
        self._loading = asyncio.create_task(self._load())

    async def _load(self) -> None:
        try:
            for host in self._hosts.values():
                await asyncio.to_thread(host.load)
                await self.pipeline.warm_up(host)
                await host.warm_up()
            # What has been made by now lives as long as the process; to look through it again and again costs every request.
            gc.collect()
            gc.freeze()
        except GazesegError as error:
            log.critical("the service cannot start: %s", error)
            tell_supervisor(str(error))
            raise
        except Exception as error:  # whatever a runtime raises over a model it cannot take, the start ends with one line
            log.critical("the service cannot start: %s: %s", type(error).__name__, error, exc_info=True)
            tell_supervisor(f"{type(error).__name__}: {error}".splitlines()[0])
            raise
        log.info("ready: %s", ", ".join(f"{host.name} ({host.predictor.engine.name})" for host in self._hosts.values()))

    def is_ready(self) -> bool:
        """True from the end of the warm-up until the service begins to drain, while nothing is stuck."""
        warm = bool(self._hosts) and all(host.warm for host in self._hosts.values())
        return warm and not self.admission.draining and self._oldest() < self.settings.timeout_seconds

    def is_alive(self) -> bool:
        """False once the models could not be loaded, or a thread has been stuck for so long that it will not come back: so
        that whoever watches starts the process again.
        """
        loading = self._loading
        failed = loading is not None and loading.done() and not loading.cancelled() and loading.exception() is not None
        return not failed and self._oldest() < _LOST_AFTER * self.settings.timeout_seconds

    def _oldest(self) -> float:
        """Seconds that the longest work of a thread has taken so far; nobody waits for it longer than `timeout_seconds`."""
        return max((self.pipeline.oldest(), *(host.oldest() for host in self._hosts.values()))) if self._hosts else 0.0

    @asynccontextmanager
    async def within(self, seconds: float, whole: float | None = None) -> AsyncIterator[None]:
        """End the block after `seconds`, what is left of `whole`, or when the process has to end. Raises Problem 504 or 503."""
        try:
            async with asyncio.timeout(0 if self._given_up else seconds) as limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if self._given_up:
                raise draining() from None
            self.telemetry.shed.labels("timeout").inc()
            raise Problem(504, "timeout", f"no answer within {whole or seconds:g} s") from None

    def give_up(self) -> None:
        """End all blocks in `within` now, and those to come: the process is about to end."""
        self._given_up = True
        for limit in self._limits:
            limit.reschedule(asyncio.get_running_loop().time())

    async def stop(self) -> None:
        self.admission.draining = True
        if self._loading is not None:
            self._loading.cancel()
        for host in self._hosts.values():
            await asyncio.to_thread(host.close)
        if self._hosts:
            self.pipeline.close()
