"""The seam to the inference runtimes: one method, `run(batch) -> Outputs`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Outputs:
    """probability: float32 `(B, K, H, W)` in [0, 1]; disagreement: float32 `(B, H, W)` in [0, 0.5], or None."""

    probability: np.ndarray
    disagreement: np.ndarray | None = None


class Engine(Protocol):
    """`run` takes `(B, H, W, C)` of the InputSpec's size and dtype, any B >= 1. Not to be called by two threads.

    threads: of the CPU, in one call.
    """

    name: str
    threads: int

    def run(self, batch: np.ndarray) -> Outputs: ...


class FakeEngine:
    """For tests: the probability of a pixel is its mean value over 255, the disagreement zero. Keeps batch sizes."""

    name = "fake"
    threads = 1

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def run(self, batch: np.ndarray) -> Outputs:
        self.batch_sizes.append(len(batch))
        probability = (batch.mean(axis=3, dtype=np.float64) / 255).astype(np.float32)
        return Outputs(probability[:, None], np.zeros_like(probability))
