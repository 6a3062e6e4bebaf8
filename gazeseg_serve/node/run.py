"""A node put together: the receiver's threads, one that segments, one that sends; drained on SIGTERM."""

from __future__ import annotations

import logging
import signal
import threading
import time
import warnings
from collections.abc import Callable
from types import FrameType

from ..errors import EngineError, require
from .masks import MaskMaker, ServiceAway, open_masks
from .monitor import Monitor
from .receive import Receiver
from .send import Archive, Sender, open_archive
from .settings import NodeSettings
from .spool import Spool
from .work import Worker

log = logging.getLogger("gazeseg_serve.node")

_LOOK_SECONDS = 0.2  # how often an idle thread looks for work that no event announces: a pause that ends, a quiet series
_FORGET_SECONDS = 60.0
_SERVICE_PAUSE = 1.0


class Node:
    """A running node. `start` returns once it listens; `stop` drains it."""

    def __init__(
        self,
        settings: NodeSettings,
        masks: MaskMaker,
        archive: Archive | None = None,
        stopping: threading.Event | None = None,
    ) -> None:
        for module in ("pynetdicom", "dicomweb_client", "prometheus_client", "highdicom.seg"):
            require(module, "node")  # now, and not when the first image waits
        self.settings = settings
        self.spool = Spool(settings.spool)
        self._masks = masks
        self._worker = Worker(settings, self.spool, self._masks)
        self._sender = Sender(settings, self.spool, archive or open_archive(settings))
        self._receiver = Receiver(settings, self.spool, self._masks.artifact.intended_use, self._arrived)
        self._stopping = stopping or threading.Event()
        self._work, self._send = threading.Event(), threading.Event()
        self._threads: list[threading.Thread] = []
        self._monitor: Monitor | None = None
        self.port = 0
        self.failed = ""

    def start(self) -> None:
        """Raises ConfigError where a port is taken."""
        self.port = self._receiver.start()
        self._threads = [
            threading.Thread(target=self._loop, args=(self._worker.step, self._work, self._send), name="work"),
            threading.Thread(target=self._loop, args=(self._sender.step, self._send, None), name="send"),
            threading.Thread(target=self._forget, name="forget", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        if self.settings.monitor_port is not None:
            self._monitor = Monitor(self.spool, self.settings.host, self.settings.monitor_port, self.is_alive, self.is_ready)
        log.info("node %s listens on %s:%d", self.settings.title, self.settings.host, self.port)

    @property
    def monitor_port(self) -> int:
        return self._monitor.port if self._monitor else 0

    def is_alive(self) -> bool:
        return not self.failed and all(thread.is_alive() for thread in self._threads)

    def is_ready(self) -> bool:
        return self.is_alive() and not self._stopping.is_set()

    def stop(self) -> bool:
        """Take no more images, finish the one in hand and the result on its way; False where that took too long.

        Either way nothing is lost: the next start goes on with what the spool holds.
        """
        self._stopping.set()
        self._receiver.stop()
        self._work.set()
        self._send.set()
        end = time.monotonic() + self.settings.drain_seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        drained = not any(thread.is_alive() for thread in self._threads)
        if self._monitor:
            self._monitor.close()
        if drained:
            self.spool.close()
        log.info(
            "node stopped" if drained else "node stopped before its work in hand was done; it is done after the next start"
        )
        return drained

    def _arrived(self, series: str) -> None:
        self._worker.arrived(series)
        self._work.set()

    def _loop(self, step: Callable[[], bool], wake: threading.Event, tell: threading.Event | None) -> None:
        """Do `step` while there is work; the node ends where it raises, and its supervisor starts it anew."""
        try:
            while not self._stopping.is_set():
                if step():
                    if tell is not None:
                        tell.set()
                    continue
                wake.wait(_LOOK_SECONDS)
                wake.clear()
        except BaseException as error:
            self.failed = f"{threading.current_thread().name}: {type(error).__name__}"
            log.exception("a thread of the node ended")
            self._stopping.set()
            raise

    def _forget(self) -> None:
        while not self._stopping.wait(_FORGET_SECONDS):
            self._worker.forget()

    def wait(self) -> None:
        """Until `stop` is asked for by a signal, or a thread has failed."""
        self._stopping.wait()


def wait_for_masks(settings: NodeSettings, stopping: threading.Event) -> MaskMaker | None:
    """The maker of masks, once its service answers; until then nobody listens, and senders keep their images."""
    while not stopping.is_set():
        try:
            return open_masks(settings)
        except ServiceAway as error:
            log.warning("the node waits for its service: %s", error)
            stopping.wait(_SERVICE_PAUSE)
    return None


def run_node(settings: NodeSettings) -> None:
    """Run a node until SIGTERM or SIGINT. Raises ConfigError, ContractError, EngineError or MissingExtraError."""
    warnings.simplefilter("ignore")  # pydicom's quote the values that they warn of
    for name in ("pynetdicom", "dicomweb_client", "pydicom", "highdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    stopping = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    masks = wait_for_masks(settings, stopping)
    if masks is None:
        return
    node = Node(settings, masks, stopping=stopping)
    node.start()
    node.wait()
    node.stop()
    if node.failed:
        raise EngineError(f"the node ended by itself ({node.failed}); the log above says why")
