"""A progress bar on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger("gazeseg_serve")

_LINE_EVERY = 10.0  # seconds between plain lines


def is_main_process() -> bool:
    """False in the processes of torchrun after the first, which alone tells what all do."""
    return os.environ.get("RANK", "0") == "0"


def track(items: Iterable[T], label: str, total: int) -> Iterator[T]:
    """Pass `items` on, showing how many of `total` are done; 0 where nobody knows how many there are."""
    if sys.stderr.isatty() and is_main_process():
        from rich.console import Console
        from rich.progress import track as bar

        yield from bar(items, description=label, total=total or None, console=Console(stderr=True), transient=True)
        return
    last, done = time.monotonic(), 0
    for done, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - last >= _LINE_EVERY:
            log.info("%s: %d of %d", label, done, total or done)
            last = time.monotonic()
    log.info("%s: %d of %d", label, done, total or done)
