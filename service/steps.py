"""How long each step of a segmentation took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Steps:
    """Seconds spent in each step; `wait` is what is left of the whole: waiting for a thread or for the engine.

    distance: how far the image lies outside what the model learned from, None where that is not known.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    batch: int = 0
    distance: float | None = None

    def server_timing(self) -> str:
        """The value of a Server-Timing header, in milliseconds."""
        timings = [f"{name};dur={seconds * 1000:.2f}" for name, seconds in self.seconds.items()]
        return ", ".join([*timings, f'batch;desc="{self.batch}"'])


def steps_of(started: float, decode: float, engine: float, encode: float, batch: int, distance: float | None = None) -> Steps:
    """The steps of an image that came at `started` and is answered now."""
    total = time.perf_counter() - started
    seconds = {
        "decode": decode,
        "wait": max(0.0, total - decode - engine - encode),
        "engine": engine,
        "encode": encode,
        "total": total,
    }
    return Steps(seconds, batch, distance)
