"""One number that says whether an image shows anything, and the line that holds a rate of false alarms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from gazeseg_serve.contract import InputSpec, Run
from gazeseg_serve.engines.base import FakeEngine, Outputs
from gazeseg_serve.errors import ConfigError, ContractError
from gazeseg_serve.export.presence import calibrate, choose_presence, cut, needed, platt
from gazeseg_serve.files import write_bytes, write_text
from gazeseg_serve.pixels import surest
from gazeseg_serve.png import encode_png
from gazeseg_serve.presence import Presence, logistic

KNOWN = Presence(0.001, 1.0, 0.0, 0.5, 0.1, 0.0, 9, 9)
presences = st.lists(st.floats(0, 0.999), min_size=9, max_size=60)


def test_the_surest_pixels_are_the_score() -> None:
    probability = np.full((1, 40, 50), 0.1, np.float32)
    probability[0, 3, 4:6] = 0.9, 0.8  # two of 2000 are 0.1 %
    expected = (math.log(0.9 / 0.1) + math.log(0.8 / 0.2)) / 2
    assert surest(probability, 0.001) == pytest.approx(expected, rel=1e-5)


def test_of_several_classes_what_is_not_background_counts() -> None:
    background = np.full((10, 10), 0.75, np.float32)
    background[0, 0] = 0.25
    several = np.stack([background, (1 - background) / 2, (1 - background) / 2])
    assert surest(several, 0.01) == pytest.approx(math.log(3), rel=1e-5)


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.0001, 1))
def test_any_size_has_a_score_between_its_least_and_its_greatest(height: int, width: int, share: float) -> None:
    probability = np.linspace(0, 1, height * width, dtype=np.float32).reshape(1, height, width)
    lowest, highest = surest(probability, 1.0), surest(probability, 1e-9)
    assert lowest - 1e-4 <= surest(probability, share) <= highest + 1e-4


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_a_higher_score_is_never_less_present(a: float, b: float) -> None:
    low, high = sorted([a, b])
    assert 0 <= logistic(low) <= logistic(high) <= 1


@given(presences, st.sampled_from([0.1, 0.2, 0.35, 0.5]))
def test_the_cut_is_the_least_that_conformal_risk_control_allows(without: list[float], rate: float) -> None:
    def holds(threshold: float) -> bool:
        alarms = sum(value >= threshold for value in without)
        return (alarms + 1) / (len(without) + 1) <= rate + 1e-12

    chosen = cut(without, rate)
    assert holds(chosen)
    lower = [value for value in without if value < chosen]
    assert not lower or not holds(max(lower)), "a lower cut would hold the rate, too"


def test_new_images_of_the_same_kind_pass_at_no_more_than_the_rate() -> None:
    rng = np.random.default_rng(0)
    passed = [np.mean(rng.random(200) >= cut(rng.random(19).tolist(), 0.1)) for _ in range(2000)]
    assert np.mean(passed) <= 0.105  # 0.1 in the long run; the mean of so many is within 0.005 of it
    assert np.mean(passed) > 0.095, "stricter than it need be"


@pytest.mark.parametrize(("rate", "count"), [(0.1, 9), (0.05, 19), (0.5, 1), (0.3, 3)])
def test_a_rate_that_too_few_images_would_promise_is_refused(rate: float, count: int) -> None:
    assert needed(rate) == count
    calibrate([4.0, 5.0], list(np.linspace(-3, -2, count)), rate)
    with pytest.raises(ConfigError, match=f"takes {count} images"):
        calibrate([4.0, 5.0], list(np.linspace(-3, -2, count - 1)), rate)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        calibrate([4.0], [-4.0] * 20, 1.0)


def test_the_scale_is_that_of_a_slow_optimiser() -> None:
    rng = np.random.default_rng(1)
    shown, empty = rng.normal(3, 2, 40), rng.normal(-1, 2, 15)

    def loss(at: np.ndarray) -> float:
        total = 0.0
        for scores, target in ((shown, 41 / 42), (empty, 1 / 17)):
            z = at[0] * scores + at[1]
            total += float(np.mean(np.logaddexp(0, z) - target * z)) / 2
        return total

    slow = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).x
    assert platt(shown.tolist(), empty.tolist()) == pytest.approx(tuple(slow), abs=1e-3)


def test_kinds_that_are_apart_stay_finite_and_even_odds_lie_between() -> None:
    found = calibrate([5.0, 6.0, 7.0] * 3, [-7.0, -6.0, -5.0] * 3)
    assert math.isfinite(found.slope)
    assert found.of(0.0) == pytest.approx(0.5, abs=1e-3)
    assert found.suppressed == 0
    assert found.of(-5.0) < found.threshold < 0.5


def test_what_is_suppressed_is_counted() -> None:
    found = calibrate([1.0, 2.0, 3.0, -9.0], [-2.0 - i / 10 for i in range(9)])
    assert found.suppressed == 0.25
    assert (found.with_target, found.without) == (4, 9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0.0},
        {"slope": 0.0},
        {"slope": math.nan},
        {"offset": math.inf},
        {"threshold": 1.5},
        {"threshold": -0.1},
        {"alarm_rate": 1.0},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ContractError, match="export the run again"):
        replace(KNOWN, **wrong)


class _Home:
    """A dataset folder of even images: the brightness of an image is what a graph of brightness says of it."""

    def __init__(self, root: Path, empty: int, shown: int, listed: bool = True) -> None:
        (root / "images").mkdir(parents=True)
        names = []
        for i in range(empty + shown):
            name = f"{'empty' if i < empty else 'shown'}_{i:02d}"
            level = 20 + i if i < empty else 200 + i
            write_bytes(root / "images" / f"{name}.png", encode_png(np.full((20, 30, 3), level, np.uint8)))
            names.append(name)
        if listed:
            write_text(root / "negatives.txt", "\n".join(names[:empty]))
        self.run = Run(InputSpec(16), {}, (), {}, 0, {"train": (), "val": tuple(names), "test": ("elsewhere",)}, {}, {})


def brightness(images: np.ndarray) -> Outputs:
    return FakeEngine().run(images)


def test_export_chooses_on_the_negatives_and_the_others_of_the_split(tmp_path: Path) -> None:
    home = _Home(tmp_path, empty=12, shown=5)
    found = choose_presence(brightness, home.run, tmp_path, "val", 0.1)
    assert found is not None
    assert (found.with_target, found.without, found.suppressed, found.alarm_rate) == (5, 12, 0, 0.1)
    # Of 12 none may remain at 0.1, since (1 + 1) / (12 + 1) is above it: the brightest empty image is just under the line.
    of = {level: found.of(surest(np.full((1, 16, 16), level / 255, np.float32), found.share)) for level in (31, 32)}
    assert of[31] < found.threshold <= of[32]


@pytest.mark.parametrize(("empty", "shown", "listed"), [(8, 5, True), (12, 0, True), (12, 5, False)])
def test_export_says_that_no_rate_can_be_promised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, empty: int, shown: int, listed: bool
) -> None:
    home = _Home(tmp_path, empty, shown, listed)
    with caplog.at_level("WARNING", "gazeseg_serve"):
        assert choose_presence(brightness, home.run, tmp_path, "val", 0.1) is None
    assert "no rate of false alarms can be promised" in caplog.text
    caplog.clear()
    assert choose_presence(brightness, home.run, None, "val", 0.1) is None
    assert "no rate of false alarms can be promised" in caplog.text


def test_images_of_another_split_are_not_asked(tmp_path: Path) -> None:
    home = _Home(tmp_path, empty=12, shown=5)
    assert choose_presence(brightness, home.run, tmp_path, "test", 0.1) is None
    assert choose_presence(brightness, home.run, tmp_path, "train", 0.1) is None
