"""Log lines on their way to stderr, by a thread of its own: a pipe that nobody reads must not stop the service."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections import deque
from typing import TextIO

_LINES = 10_000  # that wait; over it the newest are dropped and counted
_GATHER_SECONDS = 0.05  # lines are written together: to wake a thread for each costs the service more than the line
_LAST_SECONDS = 1.0  # for the lines that wait when the process ends


class LogWriter(logging.Handler):
    """Writes records later, in order, and formats them then. Where lines were dropped, the next one written says how many."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._lines: deque[logging.LogRecord] = deque()
        self._something, self._nothing = threading.Event(), threading.Event()
        self._nothing.set()
        self.dropped = self._told = 0
        threading.Thread(target=self._write_on, name="log", daemon=True).start()
        atexit.register(self._last_lines)

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._lines) >= _LINES:
            self.dropped += 1
            return
        if missing := self.dropped - self._told:
            self._told = self.dropped
            notice = logging.LogRecord(__name__, logging.WARNING, "", 0, "%d log lines were dropped", (missing,), None)
            self._lines.append(notice)
        record.msg, record.args = record.getMessage(), None  # a message that cannot be made is its caller's error
        if record.exc_info and not record.exc_text:  # a traceback keeps alive all that its frames hold
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        self._lines.append(record)
        self._nothing.clear()
        self._something.set()

    def _write_on(self) -> None:
        while True:
            self._something.wait()
            time.sleep(_GATHER_SECONDS)
            self._something.clear()
            while self._lines:
                lines = [self.format(self._lines.popleft()) for _ in range(len(self._lines))]
                try:
                    self._stream.write("".join(line + "\n" for line in lines))
                    self._stream.flush()
                except (OSError, ValueError):  # nobody reads any more, the disk is full, or the stream is closed
                    self.dropped += len(lines)
            self._nothing.set()

    def flushed(self, seconds: float) -> bool:
        """Wait until no line waits, for so long at most; whether none does."""
        return self._nothing.wait(seconds)

    def _last_lines(self) -> None:
        self.flushed(_LAST_SECONDS)
