"""Overlap of masks, in numpy, so that the serving side needs no torch. Masks are bool or integer arrays of one shape."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np

DEAD_SHARE = 0.002  # a level with less foreground, or less background, than this share of the pixels says nothing


def is_dead(share: float) -> bool:
    """Whether a level that calls this share of the pixels foreground is all background, or all foreground, in effect."""
    return not DEAD_SHARE <= share <= 1 - DEAD_SHARE


def labels_of(probability: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The rule that makes probabilities labels: `(..., K, H, W)` in [0, 1] -> uint8 `(..., H, W)`.

    K = 1: 1 where p >= threshold, else 0. K > 1, background first: the likeliest class, whatever the threshold.
    """
    if probability.shape[-3] == 1:
        return (probability[..., 0, :, :] >= threshold).astype(np.uint8)
    return probability.argmax(axis=-3).astype(np.uint8)


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|), in [0, 1]; 1 where both are empty."""
    a, b = np.asarray(prediction, bool), np.asarray(truth, bool)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 1.0 if total == 0 else 2 * np.count_nonzero(a & b) / total


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """|A and B| / |A or B|, in [0, 1]; 1 where both are empty."""
    a, b = np.asarray(prediction, bool), np.asarray(truth, bool)
    union = np.count_nonzero(a | b)
    return 1.0 if union == 0 else np.count_nonzero(a & b) / union


def class_dice(prediction: np.ndarray, truth: np.ndarray, classes: int) -> list[float]:
    """Dice of each label 1..classes."""
    return [dice(prediction == label, truth == label) for label in range(1, classes + 1)]


def flipped_share(first: np.ndarray, second: np.ndarray) -> float:
    """The share of pixels at which two label maps differ, in [0, 1]."""
    return float(np.mean(np.asarray(first) != np.asarray(second)))


def flicker(masks: Iterable[np.ndarray]) -> float:
    """How much the masks of successive frames differ, in [0, 1]: the mean of 1 - Jaccard over all pairs of neighbours.

    1 - Jaccard is the share of the pixels of either mask that are not of both; 0 where both are empty. What truly moves
    counts, too, so compare it on the same frames, or with the flicker of the true masks. 0 for fewer than two masks.
    """
    changes = [1 - iou(before, after) for before, after in pairwise(masks)]
    return float(np.mean(changes)) if changes else 0.0


def bootstrap_interval(values: np.ndarray, level: float = 0.95, rounds: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` `(N,)` (Efron, 1979)."""
    values = np.asarray(values, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(values), (rounds, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
