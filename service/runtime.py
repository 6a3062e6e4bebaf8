"""What lives as long as the process: models, threads, counters; and whether it is ready, draining or broken."""

from __future__ import annotations

import asyncio
import logging

import cv2

from gazeseg_serve.errors import ConfigError, GazesegError

from .answering import Pipeline
from .limits import Admission, Keys
from .memory import bound_heaps
from .model_host import MakeBatching, ModelHost
from .problems import Problem
from .settings import Settings
from .telemetry import Telemetry

log = logging.getLogger("gazeseg_serve.service")


class Runtime:
    """Made when the service is defined (cheap); `start` loads the models; `stop` ends the threads.

    Raises ConfigError where the settings name no artifact.
    """

    def __init__(self, settings: Settings, make_batching: MakeBatching) -> None:
        self.settings = settings
        self.telemetry = Telemetry()
        self.admission = Admission(settings, self.telemetry)
        self.keys = Keys.load(settings)
        self._make_batching = make_batching
        self._hosts: dict[str, ModelHost] = {}
        self._loading: asyncio.Task[None] | None = None
        self.failed = False

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
        self.pipeline = Pipeline(self.settings.limits, self.telemetry)
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
        except GazesegError as error:
            self.failed = True
            log.critical("the service cannot start: %s", error)
            raise
        log.info("ready: %s", ", ".join(f"{host.name} ({host.predictor.engine.name})" for host in self._hosts.values()))

    def is_ready(self) -> bool:
        """True from the end of the warm-up until the service begins to drain."""
        return bool(self._hosts) and all(host.warm for host in self._hosts.values()) and not self.admission.draining

    def is_alive(self) -> bool:
        """False once the models could not be loaded, so that whoever watches starts the process again."""
        loading = self._loading
        return not (loading is not None and loading.done() and not loading.cancelled() and loading.exception())

    async def stop(self) -> None:
        self.admission.draining = True
        if self._loading is not None:
            self._loading.cancel()
        for host in self._hosts.values():
            await asyncio.to_thread(host.close)
        self.pipeline.close()
