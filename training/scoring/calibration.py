"""Whether a probability means what it says: a reliability table over pixels, and its expected calibration error."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15  # as Guo et al., ICML 2017


@dataclass(frozen=True)
class Reliability:
    """Sums over the pixels whose probability fell into each of 15 equal bins of [0, 1], float64 `(15,)` each.

    pixels      how many              probability   the sum of theirs              positive   how many are foreground

    Tables of several images add up: `a + b`.
    """

    pixels: np.ndarray
    probability: np.ndarray
    positive: np.ndarray

    @classmethod
    def of(cls, probability: np.ndarray, truth: np.ndarray) -> Reliability:
        """The table of float probabilities of foreground in [0, 1] and their truth, bool or a share in [0, 1], of one shape."""
        bins = np.minimum((probability.ravel() * BINS).astype(np.intp), BINS - 1)
        sums = (np.bincount(bins, weights, BINS) for weights in (None, probability.ravel(), truth.ravel()))
        return cls(*(np.asarray(total, np.float64) for total in sums))

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(self.pixels + other.pixels, self.probability + other.probability, self.positive + other.positive)

    def error(self) -> float:
        """Expected calibration error: mean over pixels of |mean probability - share of foreground| of their bin."""
        return float(np.abs(self.probability - self.positive).sum() / self.pixels.sum())

    def rows(self) -> list[dict[str, float]]:
        """One row a bin: its limits, pixels, mean probability and share of foreground (NaN where it is empty)."""
        with np.errstate(invalid="ignore"):
            means, shares = self.probability / self.pixels, self.positive / self.pixels
        return [
            {"from": i / BINS, "to": (i + 1) / BINS, "pixels": int(n), "probability": float(p), "foreground": float(f)}
            for i, (n, p, f) in enumerate(zip(self.pixels, means, shares, strict=True))
        ]
