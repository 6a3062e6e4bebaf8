"""DenseCRF refinement: against mean field written out in full, and that nothing bad reaches the library."""

import dataclasses

import numpy as np
import pytest

from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.training.masks.crf import refine
from gazeseg_serve.training.masks.settings import CrfSettings, parse_crf


def picture(height=12, width=14):
    """A bright square on a dark ground, and a blurred heatmap that is off by two pixels."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[3:9, 4:10] = 200
    rows, columns = np.mgrid[:height, :width]
    heat = np.exp(-((rows - 6) ** 2 + (columns - 8) ** 2) / 18).astype(np.float32)
    return image, heat


def mean_field(image, heat, sxy, srgb, compat, iterations):
    """Exact mean field with the symmetric normalisation of the library, every pair of pixels in full."""
    height, width = heat.shape
    rows, columns = np.mgrid[:height, :width]
    features = np.concatenate([np.stack([columns, rows], -1) / sxy, image / srgb], -1).reshape(-1, 5).astype(float)
    kernel = np.exp(-0.5 * ((features[:, None] - features[None]) ** 2).sum(-1))
    norm = 1 / np.sqrt(kernel.sum(1) + 1e-20)
    kernel = norm[:, None] * kernel * norm[None]
    unary = -np.log(np.clip(np.stack([1 - heat.ravel(), heat.ravel()]).astype(float), 1e-5, 1))
    q = np.exp(-unary) / np.exp(-unary).sum(0)
    for _ in range(iterations):
        q = np.exp(-unary + compat * q @ kernel)
        q /= q.sum(0)
    return q[1].reshape(height, width)


@pytest.mark.parametrize("compat", [1.0, 4.0])
def test_it_is_mean_field_over_all_pairs(compat):
    image, heat = picture()
    found = refine(image, heat, CrfSettings(sxy=5, srgb=20, compat=compat, iterations=5))
    expected = mean_field(image, heat, 5, 20, compat, 5)
    # The library filters on a permutohedral lattice, an approximation of the full sum.
    assert np.abs(found - expected).mean() < 0.02
    assert np.abs(found - heat).mean() > 2 * np.abs(found - expected).mean()


def test_the_map_follows_the_edge_of_the_object():
    image, heat = picture()
    refined = refine(image, heat, CrfSettings(compat=10.0))
    truth = image[..., 0] > 100
    assert refined[truth].min() > refined[~truth].max()
    assert refined.dtype == np.float32
    assert refined.shape == heat.shape


def test_it_is_deterministic_and_leaves_its_inputs_alone():
    image, heat = picture()
    image.flags.writeable = heat.flags.writeable = False
    np.testing.assert_array_equal(refine(image, heat), refine(image.copy(), heat.copy()))


def test_flipping_the_image_flips_the_map():
    image, heat = picture(32, 40)
    flat = CrfSettings(sxy=6.0, srgb=13.0)
    np.testing.assert_allclose(refine(image[:, ::-1], heat[:, ::-1], flat)[:, ::-1], refine(image, heat, flat), atol=0.05)


def test_a_weight_of_zero_changes_nothing():
    image, heat = picture()
    np.testing.assert_allclose(refine(image, heat, CrfSettings(compat=0.0)), heat, atol=2e-5)


def test_settings_are_read_from_the_command_line():
    assert parse_crf(["sxy=60", "iterations=5"]) == CrfSettings(sxy=60.0, iterations=5)
    assert parse_crf([]) == CrfSettings()
    for wrong in ("sigma=3", "sxy", "sxy=wide", "iterations=1.5"):
        with pytest.raises(ConfigError, match="CRF setting"):
            parse_crf([wrong])


@pytest.mark.parametrize(
    "change",
    [
        {"sxy": 0.0},
        {"sxy": -1.0},
        {"srgb": 0.0},
        {"sxy": float("nan")},
        {"compat": float("inf")},
        {"compat": -1.0},
        {"iterations": 0},
    ],
)
def test_settings_that_would_crash_are_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(CrfSettings(), **change)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda image, heat: (image, np.where(heat > 0.5, np.nan, heat)), r"not in \[0, 1\]"),
        (lambda image, heat: (image, heat * 2), r"not in \[0, 1\]"),
        (lambda image, heat: (image, heat[:-1]), "wants"),
        (lambda image, heat: (image[..., :1], heat), "wants"),
        (lambda image, heat: (image.astype(float), heat), "wants"),
        (lambda image, heat: (image, heat[0]), "is \\(H, W\\)"),
        (lambda image, heat: (image[:0], heat[:0]), "is \\(H, W\\)"),
        (lambda image, heat: (image, (heat > 0.5).astype(np.uint8)), "is \\(H, W\\)"),
    ],
)
def test_arrays_that_would_crash_are_refused(damage, message):
    with pytest.raises(DatasetError, match=message):
        refine(*damage(*picture()))
