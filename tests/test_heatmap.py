"""Heatmaps against scipy's dense filter, and what must hold for any fixations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.training.masks.heatmap import accumulate, canvas_pixels, heatmap
from gazeseg_serve.training.masks.settings import CANVAS

SIDE = 48  # a small canvas: the dense oracle is slow
shares = st.floats(0, 1)
scans = st.lists(st.tuples(shares, shares, st.integers(1, 3000)), min_size=1, max_size=12)


def columns(rows):
    return tuple(np.array(column, float) for column in zip(*rows, strict=True))


def dense(x, y, duration, sigma, side):
    """The method's own words: add each duration at its pixel, then filter the canvas."""
    canvas = np.zeros((side, side))
    for a, b, d in zip(x, y, duration, strict=True):
        canvas[max(round(b * side) - 1, 0), max(round(a * side) - 1, 0)] += d
    return gaussian_filter(canvas, sigma, mode="reflect", truncate=4.0)


@settings(deadline=None)
@given(scans, st.floats(0.5, 20))
def test_separable_form_is_the_dense_filter_and_keeps_the_mass(rows, sigma):
    x, y, duration = columns(rows)
    heat = accumulate(x, y, duration, sigma, SIDE)
    np.testing.assert_allclose(heat, dense(x, y, duration, sigma, SIDE), rtol=0, atol=1e-5 * duration.sum())
    assert heat.sum() == pytest.approx(duration.sum(), rel=1e-5)


@pytest.mark.parametrize("sigma", [50.0, 70.0])
def test_published_sigmas_on_the_full_canvas(sigma):
    rng = np.random.default_rng(0)
    x, y, duration = rng.random(25), rng.random(25), rng.uniform(50, 900, 25)
    expected = dense(x, y, duration, sigma, CANVAS)
    np.testing.assert_allclose(accumulate(x, y, duration, sigma), expected, rtol=1e-9, atol=0)
    span = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(heatmap(x, y, duration, (CANVAS, CANVAS), sigma), span, atol=1e-6)


@given(st.integers(10, 37), st.integers(10, 37), st.integers(-8, 8), st.integers(-8, 8))
def test_a_fixation_moved_by_d_moves_the_peak_by_d(row, column, down, right):
    def peak(r, c):
        heat = accumulate(np.array([(c + 1) / SIDE]), np.array([(r + 1) / SIDE]), np.array([100.0]), 2.0, SIDE)
        return np.unravel_index(heat.argmax(), heat.shape)

    assert peak(row, column) == (row, column)
    assert peak(row + down, column + right) == (row + down, column + right)


@settings(deadline=None)
@given(scans, st.sampled_from(["x", "y"]))
def test_flipping_the_fixations_flips_the_canvas(rows, axis):
    # A share s falls on pixel round(s n) - 1, so its mirror image is the share (n + 1 - round(s n)) / n.
    x, y, duration = columns(rows)
    flipped = {"x": x, "y": y}
    flipped[axis] = (SIDE - canvas_pixels(flipped[axis], SIDE)) / SIDE
    heat = accumulate(x, y, duration, 3.0, SIDE)
    np.testing.assert_allclose(
        accumulate(flipped["x"], flipped["y"], duration, 3.0, SIDE),
        heat[:, ::-1] if axis == "x" else heat[::-1],
        rtol=1e-9,
        atol=1e-12,
    )


@settings(deadline=None, max_examples=20)
@given(scans, st.integers(1, 90), st.integers(1, 90), st.floats(0.5, 100))
def test_a_heatmap_is_in_range_and_does_not_depend_on_the_unit_of_time(rows, height, width, unit):
    x, y, duration = columns(rows)
    heat = heatmap(x, y, duration, (height, width), 20.0)
    assert heat.shape == (height, width)
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    assert heat.max() <= 1
    np.testing.assert_allclose(heatmap(x, y, duration * unit, (height, width), 20.0), heat, atol=1e-5)


def test_the_corner_stays_in_its_corner():
    heat = heatmap(np.zeros(1), np.zeros(1), np.ones(1), (64, 64), 50.0)
    assert np.unravel_index(heat.argmax(), heat.shape) == (0, 0)
    assert heat[-1, -1] < 1e-3
    np.testing.assert_array_equal(canvas_pixels(np.array([0, 0.5 / CANVAS, 1.0])), [0, 0, CANVAS - 1])


def test_golden_values():
    x, y, duration = np.array([0.25, 0.5, 0.75]), np.array([0.5, 0.25, 0.6]), np.array([100.0, 300.0, 200.0])
    golden = [
        [0.0000, 0.0093, 0.2612, 0.2579, 0.0090, 0.0000],
        [0.0252, 0.1406, 0.2806, 0.2591, 0.0408, 0.0060],
        [0.0247, 0.1289, 0.0247, 0.1222, 0.6412, 0.1197],
        [0.0000, 0.0000, 0.0000, 0.0013, 0.0069, 0.0013],
    ]
    np.testing.assert_allclose(heatmap(x, y, duration, (4, 6)), golden, atol=1e-4)


def test_two_sigmas_stretch_the_spot():
    heat = accumulate(np.array([0.5]), np.array([0.5]), np.array([1.0]), (2.0, 8.0), SIDE)
    rows, cols = np.indices(heat.shape)
    spread = [np.sqrt((heat * (axis - (heat * axis).sum()) ** 2).sum()) for axis in (rows, cols)]
    assert spread[0] == pytest.approx(2.0, rel=0.02)
    assert spread[1] == pytest.approx(8.0, rel=0.05)


@pytest.mark.parametrize(
    ("x", "duration", "message"),
    [
        ([], [], "0 ms"),
        ([0.5], [0], "0 ms"),
        ([np.nan], [1], "not finite"),
        ([0.5], [np.inf], "not finite"),
        ([1.5], [1], "outside"),
        ([0.5], [-1], "negative"),
    ],
)
def test_fixations_without_a_heatmap_are_an_error(x, duration, message):
    with pytest.raises(DatasetError, match=message):
        heatmap(np.array(x), np.full(len(x), 0.5), np.array(duration), (8, 8))


@pytest.mark.parametrize("sigma", [0, -1, np.nan, np.inf, CANVAS + 1])
def test_a_sigma_that_is_no_width_is_an_error(sigma):
    with pytest.raises(ConfigError, match="sigma"):
        heatmap(np.array([0.5]), np.array([0.5]), np.array([1.0]), (8, 8), float(sigma))
