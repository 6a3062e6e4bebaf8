"""Masks that do not flicker: log odds smoothed over time, and presence with hysteresis."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ..engines.base import Outputs
from ..pixels import log_odds
from ..predictor import Prediction, Predictor
from .settings import Steadiness

SUREST = 4.0  # log odds beyond which a past frame counts no more: one that is very sure must not outlast its time


class Steady:
    """The past of one stream of frames.

    s(t) = s(t') + (1 - exp(-(t - t') / seconds)) (z(t) - s(t')), where z are the frame's log odds, held in [-4, 4], and t'
    is the time of the frame before: the exponential mean for samples that come at uneven times. A frame whose time does not
    come after the one before starts anew, as the first does.
    """

    def __init__(self, settings: Steadiness) -> None:
        self.settings = settings
        self._scores: np.ndarray | None = None
        self._at = -math.inf
        self._shown = False

    def smooth(self, probability: np.ndarray, at: float) -> np.ndarray:
        """float32 `(K, h, w)` probability of the frame at `at` seconds -> the same, smoothed over those before."""
        if not self.settings.seconds:
            return probability
        scores = log_odds(probability)
        scores = np.clip(scores, -SUREST, SUREST) if len(scores) == 1 else np.maximum(scores, -2 * SUREST)
        past, step = self._scores, at - self._at
        self._at = at
        if past is None or not step > 0 or past.shape != scores.shape:
            self._scores = scores
        else:
            self._scores = past + np.float32(-math.expm1(-step / self.settings.seconds)) * (scores - past)
        return _probability(self._scores)

    def presence_threshold(self, threshold: float) -> float:
        """The presence that this frame must reach, of the model's own `threshold`: less of it where the last was shown."""
        return threshold * self.settings.release if self._shown else threshold

    def saw(self, prediction: Prediction) -> None:
        """Remember whether the frame was taken to show anything."""
        self._shown = not prediction.shows_nothing


class FrameSegmenter:
    """A predictor that remembers: frames of one video in, in order, predictions out."""

    def __init__(self, predictor: Predictor, steadiness: Steadiness, presence: float | None = None) -> None:
        """presence: as in Predictor.predict."""
        self._predictor, self._steady = predictor, Steady(steadiness)
        rule = None if predictor.artifact is None else predictor.artifact.presence
        self._presence = presence if presence is not None or rule is None else rule.threshold

    def __call__(self, image: np.ndarray, at: float) -> Prediction:
        """Segment `(H, W, C)`, as Predictor.predict takes it, shown at `at` seconds. Raises as it does."""
        prepared = self._predictor.prepare(image)
        found = self.steadied(self._predictor.run([prepared]), at, image.shape[:2])
        return replace(found, unusual=self._predictor.unusual(prepared))

    def steadied(self, outputs: Outputs, at: float, size: tuple[int, int]) -> Prediction:
        """The prediction of what the engine gave for one frame of `size` = (height, width)."""
        probability = self._steady.smooth(outputs.probability[0], at)
        presence = None if self._presence is None else self._steady.presence_threshold(self._presence)
        found = self._predictor.finish(Outputs(probability[None], outputs.disagreement), 0, size, presence)
        self._steady.saw(found)
        return found


def _probability(scores: np.ndarray) -> np.ndarray:
    """The inverse of `log_odds`; several classes are brought to a sum of 1."""
    if len(scores) == 1:
        return 1 / (1 + np.exp(-scores))
    odds = np.exp(scores - scores.max(axis=0))
    return odds / odds.sum(axis=0)
