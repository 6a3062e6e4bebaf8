"""A thread that ends this process when its event loop cannot: its supervisor has gone, or the time to end is over."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

FAILURE = "_GAZESEG_FAILURE"  # names the file in which a worker says why it cannot start
_LOOK_SECONDS = 0.5


class Watchdog:
    """Sends this process SIGTERM once its parent is another: the supervisor was killed, and this process, which would
    hold the port with nobody to stop it, drains and ends. After `end_within` it ends at the time given, whatever runs.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._deadline = float("inf")
        self._wake = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def end_within(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._wake.set()

    def _watch(self) -> None:
        orphan = False
        while (left := self._deadline - time.monotonic()) > 0:
            self._wake.wait(min(left, _LOOK_SECONDS))
            self._wake.clear()
            if not orphan and os.getppid() != self._parent:
                orphan = True
                os.kill(os.getpid(), signal.SIGTERM)
        os._exit(1)  # no clean-up: something does not end


def tell_supervisor(reason: str) -> None:
    """Leave word why this worker cannot start, and end the supervisor, which would only start another like it."""
    place = os.environ.get(FAILURE)
    if place:
        Path(place).write_text(reason)
        os.kill(os.getppid(), signal.SIGTERM)
