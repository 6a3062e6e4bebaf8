"""Smoothing over time and the measure of flicker, against slow ways to say the same."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.engines.base import FakeEngine, Outputs
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.metrics import dice, flicker
from gazeseg_serve.predictor import Prediction, Predictor
from gazeseg_serve.training.gaze.phantom_clip import phantom_clip
from gazeseg_serve.video.settings import RELEASE, SMOOTH_SECONDS, Steadiness
from gazeseg_serve.video.steady import SUREST, FrameSegmenter, Steady


def slow_flicker(masks: list[np.ndarray]) -> float:
    """The definition, with sets of pixels."""
    sets = [{(y, x) for y, row in enumerate(mask.tolist()) for x, value in enumerate(row) if value} for mask in masks]
    pairs = list(itertools.pairwise(sets))
    return sum(len(a ^ b) / len(a | b) if a | b else 0.0 for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_flicker_is_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = [(rng.random((7, 9)) < share).astype(np.uint8) for share in (0.3, 0.0, 0.0, 0.9, 0.5, 1.0)]
    assert flicker(masks) == pytest.approx(slow_flicker(masks), abs=1e-12)


def test_flicker_of_what_stands_still_comes_and_is_alone() -> None:
    still, empty = np.ones((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    assert flicker([still] * 5) == flicker([empty] * 5) == flicker([still]) == flicker([]) == 0
    assert flicker([empty, still] * 3) == 1


def slow_mean(values: list[float], times: list[float], seconds: float) -> float:
    """The exponential mean in closed form: weights w(i) = (1 - exp(-gap before i / s)) x exp(-time since i / s)."""
    total = values[0] * math.exp(-(times[-1] - times[0]) / seconds)
    for i in range(1, len(values)):
        total += (1 - math.exp(-(times[i] - times[i - 1]) / seconds)) * math.exp(-(times[-1] - times[i]) / seconds) * values[i]
    return total


@pytest.mark.parametrize("seconds", [0.05, 0.3, 4.0])
def test_smoothing_is_the_exponential_mean_of_log_odds_at_uneven_times(seconds: float) -> None:
    rng = np.random.default_rng(1)
    scores, times = rng.uniform(-SUREST, SUREST, 20), np.cumsum(rng.uniform(0.01, 0.5, 20))
    steady = Steady(Steadiness(seconds))
    for i in range(20):
        given = np.full((1, 2, 3), 1 / (1 + np.exp(-scores[i])), np.float32)
        found = steady.smooth(given, float(times[i]))
        wanted = 1 / (1 + math.exp(-slow_mean(list(scores[: i + 1]), list(times[: i + 1]), seconds)))
        np.testing.assert_allclose(found, wanted, atol=2e-5)
        assert found.dtype == np.float32


def test_one_very_sure_frame_does_not_outlast_its_time() -> None:
    """Log odds of 16 would need e^16: they count as 4, so that the opposite is seen after ln 2 time constants."""
    steady = Steady(Steadiness(1.0))
    sure, none = np.full((1, 1, 1), 1.0, np.float32), np.full((1, 1, 1), 0.0, np.float32)
    steady.smooth(none, 0.0)
    assert steady.smooth(sure, math.log(2) - 0.01)[0, 0, 0] < 0.5
    steady = Steady(Steadiness(1.0))
    steady.smooth(none, 0.0)
    assert steady.smooth(sure, math.log(2) + 0.01)[0, 0, 0] > 0.5


def test_no_smoothing_a_first_frame_time_that_goes_back_and_another_size_start_anew() -> None:
    rng = np.random.default_rng(2)
    a, b, other = (rng.uniform(0.1, 0.9, shape).astype(np.float32) for shape in ((1, 3, 3), (1, 3, 3), (1, 4, 4)))
    plain = Steady(Steadiness(0))
    assert plain.smooth(a, 0) is a
    steady = Steady(Steadiness(0.5))
    np.testing.assert_allclose(steady.smooth(a, 5.0), a, atol=1e-6)
    np.testing.assert_allclose(steady.smooth(b, 4.0), b, atol=1e-6)
    np.testing.assert_allclose(steady.smooth(a, 4.0), a, atol=1e-6)
    np.testing.assert_allclose(steady.smooth(other, 5.0), other, atol=1e-6)
    assert not np.allclose(steady.smooth(np.full_like(other, 0.5), 5.1), 0.5)


def test_several_classes_stay_a_distribution_and_settle_where_they_are_held() -> None:
    rng = np.random.default_rng(3)
    steady, held = Steady(Steadiness(0.1)), rng.dirichlet((1, 1, 1), (4, 4)).transpose(2, 0, 1).astype(np.float32)
    for i in range(3):
        found = steady.smooth(rng.dirichlet((1, 1, 1), (4, 4)).transpose(2, 0, 1).astype(np.float32), i * 0.04)
        np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-5)
    for i in range(3, 80):
        found = steady.smooth(held, i * 0.04)
    np.testing.assert_allclose(found, held, atol=1e-3)


def test_hysteresis_lets_go_later_than_it_takes() -> None:
    steady, shown, taken = Steady(Steadiness(0, release=0.5)), [], []
    for presence in (0.5, 0.7, 0.4, 0.31, 0.29, 0.5, 0.6):
        threshold = steady.presence_threshold(0.6)
        found = Prediction(np.full((1, 2, 2), 0.9, np.float32), None, (2, 2), presence, threshold)
        steady.saw(found)
        shown.append(bool(found.mask().any()))
        taken.append(threshold)
    assert shown == [False, True, True, True, False, False, True]
    assert taken == pytest.approx([0.6, 0.6, 0.3, 0.3, 0.3, 0.6, 0.6])


@pytest.mark.parametrize("wrong", [{"seconds": -0.1}, {"seconds": 11}, {"seconds": math.nan}, {"release": 0}, {"release": 1.1}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="switches"):
        Steadiness(**wrong)


def test_the_page_plays_with_the_default_of_the_command() -> None:
    script = (Path(__file__).parents[1] / "service" / "page" / "stream.js").read_text()
    assert f"const [SMOOTH, RELEASE] = [{SMOOTH_SECONDS}, {RELEASE}];" in script


def test_a_segmenter_without_smoothing_is_the_predictor() -> None:
    predictor = Predictor(FakeEngine(), InputSpec(size=16, classes=("lesion",)))
    image = np.random.default_rng(4).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    found = FrameSegmenter(predictor, Steadiness(0))(image, 0.0)
    np.testing.assert_array_equal(found.mask(0.45), predictor.predict(image).mask(0.45))


def test_on_the_phantom_clip_flicker_falls_and_dice_does_not() -> None:
    """An engine as wrong as a network can be: the truth, in log odds 1.5 apart, with noise that is new in every frame."""
    rng, size = np.random.default_rng(5), 48
    predictor = Predictor(FakeEngine(), InputSpec(size=size, classes=("lesion",)))
    plain, steady = (FrameSegmenter(predictor, Steadiness(seconds)) for seconds in (0.0, 0.06))
    truths, masks = [], {"plain": [], "steady": []}
    for number, (_, truth) in enumerate(phantom_clip(size, 120, np.random.default_rng(6))):
        scores = 3.0 * truth - 1.5 + rng.normal(0, 1.0, truth.shape)
        outputs = Outputs((1 / (1 + np.exp(-scores))).astype(np.float32)[None, None])
        truths.append(truth)
        masks["plain"].append(plain.steadied(outputs, number / 25, truth.shape).mask())
        masks["steady"].append(steady.steadied(outputs, number / 25, truth.shape).mask())
    seen = [i for i, truth in enumerate(truths) if truth.any()]
    score = {name: np.mean([dice(found[i], truths[i]) for i in seen]) for name, found in masks.items()}
    shake = {name: flicker(found) - flicker(truths) for name, found in masks.items()}
    assert shake["steady"] < 0.75 * shake["plain"]
    assert score["steady"] > score["plain"]


def test_the_phantom_clip_is_exact_and_the_lesion_comes_and_goes() -> None:
    clip = list(phantom_clip(64, 50, np.random.default_rng(7)))
    again = list(phantom_clip(64, 50, np.random.default_rng(7)))
    assert len(clip) == 50
    for (image, mask), (same, truth) in zip(clip, again, strict=True):
        assert image.shape == (64, 64, 3)
        assert set(np.unique(mask)) <= {0, 1}
        np.testing.assert_array_equal(image, same)
        np.testing.assert_array_equal(mask, truth)
    areas = np.array([mask.sum() for _, mask in clip])
    assert not areas[:5].any()
    assert not areas[-5:].any()
    assert (areas[15:35] > 100).all()
    assert len({tuple(np.argwhere(mask).mean(axis=0)) for _, mask in clip[15:35]}) > 5, "the camera moves"
    with pytest.raises(ValueError, match="10 or more"):
        next(phantom_clip(64, 9, np.random.default_rng(0)))
