from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gazeseg_serve.metrics import bootstrap_interval, class_dice, dice, flipped_share, iou

MASKS = arrays(bool, (6, 7))


def slow_counts(a: np.ndarray, b: np.ndarray) -> tuple[int, int, int]:
    both = only_a = only_b = 0
    for x, y in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
        both, only_a, only_b = both + (x and y), only_a + (x and not y), only_b + (y and not x)
    return both, only_a, only_b


@given(MASKS, MASKS)
def test_overlap_against_counting_by_hand(a: np.ndarray, b: np.ndarray) -> None:
    both, only_a, only_b = slow_counts(a, b)
    if both + only_a + only_b == 0:
        assert dice(a, b) == iou(a, b) == 1
    else:
        assert dice(a, b) == pytest.approx(2 * both / (2 * both + only_a + only_b))
        assert iou(a, b) == pytest.approx(both / (both + only_a + only_b))
    assert dice(a, b) == dice(b, a)
    assert flipped_share(a, b) == pytest.approx((only_a + only_b) / a.size)


def test_dice_of_each_class() -> None:
    truth = np.array([0, 1, 1, 2, 2, 3])
    assert class_dice(np.array([0, 1, 2, 2, 2, 0]), truth, 3) == pytest.approx([2 / 3, 4 / 5, 0])


@given(st.integers(0, 1000))
def test_the_bootstrap_covers_the_mean_about_as_often_as_it_says(seed: int) -> None:
    values = np.random.default_rng(seed).normal(3, 1, 200)
    low, high = bootstrap_interval(values, rounds=200)
    assert low < values.mean() < high
    # The half width of a 95 % interval of a mean of 200 draws is 1.96 / sqrt(200) = 0.139.
    assert 0.08 < (high - low) / 2 < 0.21
