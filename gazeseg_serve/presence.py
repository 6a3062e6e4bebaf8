"""Does an image show anything at all? The line under which nothing is marked, as a manifest keeps it.

A network that learned from images with a target each marks something in every image. How sure it is of its surest pixels
(`pixels.surest`) still tells an empty image from one that is not, so that is turned into a probability, and cut where the
share of false alarms stays under what was asked for. Both are chosen at export (`export.presence`), on images that taught
nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import ContractError


@dataclass(frozen=True)
class Presence:
    """presence = 1 / (1 + exp(-(slope * score + offset))), of which less than `threshold` is taken for nothing there.

    share            of the pixels whose mean log odds is the score
    threshold        in [0, 1]; 0 suppresses nothing
    alarm_rate       share of images without a target that may pass the threshold, in (0, 1)
    suppressed       share of the images with a target, below, that the threshold takes for empty
    with_target, without   how many images of either kind it was chosen on
    """

    share: float
    slope: float
    offset: float
    threshold: float
    alarm_rate: float
    suppressed: float
    with_target: int
    without: int

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 <= self.threshold <= 1 or not 0 < self.alarm_rate < 1:
            raise ContractError(
                f"presence: share {self.share} and alarm_rate {self.alarm_rate} lie in (0, 1), threshold {self.threshold} in "
                "[0, 1]; export the run again"
            )
        if not (math.isfinite(self.slope) and self.slope > 0 and math.isfinite(self.offset)):
            raise ContractError(
                f"presence: slope {self.slope} is not above 0, or offset {self.offset} not finite; export the run again"
            )

    def of(self, score: float) -> float:
        """The presence, in [0, 1], of a score as `pixels.surest` gives it for `share`."""
        return logistic(self.slope * score + self.offset)


def logistic(z: float) -> float:
    """1 / (1 + exp(-z)) without overflow."""
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
