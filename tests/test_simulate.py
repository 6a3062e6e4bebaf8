"""Simulated gaze against what was measured on real gaze, and phantoms that anyone can make again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.training.gaze.fixations import read_fixations
from gazeseg_serve.training.gaze.phantoms import phantom
from gazeseg_serve.training.gaze.simulate import simulate_gaze, write_phantoms
from gazeseg_serve.training.masks.quality import inside_share


def ellipse(size: int, radius: float) -> np.ndarray:
    grid = (np.arange(size) + 0.5) / size
    return ((grid[:, None] - 0.45) ** 2 + ((grid[None] - 0.6) * 0.8) ** 2 < radius**2).astype(np.uint8)


def figures(noise: str) -> dict[str, float]:
    mask = ellipse(200, 0.2)
    scans = [simulate_gaze(mask, np.random.default_rng(i), noise) for i in range(150)]
    middle = np.array([0.6, 0.45])
    return {
        "fixations": float(np.mean([len(s) for s in scans])),
        "seconds": float(np.mean([s.gaze_ms / 1000 for s in scans])),
        "inside": float(np.median([inside_share(s, mask) for s in scans])),
        "off": float(np.mean([np.hypot(*(np.average([s.x, s.y], axis=1, weights=s.duration) - middle)) for s in scans])),
    }


def test_eyelink_gaze_is_like_the_recorded_gaze():
    found = figures("eyelink")  # recorded: 27 fixations, 9.0 s, median 90 % inside, centroid 0.04 off
    assert found["fixations"] == pytest.approx(27, abs=2)
    assert found["seconds"] == pytest.approx(9.0, abs=0.7)
    assert found["inside"] == pytest.approx(0.90, abs=0.05)
    assert found["off"] == pytest.approx(0.035, abs=0.015)


def test_webcam_gaze_is_as_bad_as_measured():
    found = figures("webcam")  # measured: median 17 % inside, 0.21 off
    assert found["inside"] < 0.3
    assert found["off"] == pytest.approx(0.21, abs=0.04)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.sampled_from(["eyelink", "webcam"]))
def test_any_mask_gives_usable_fixations_by_its_seed_alone(seed, height, width, noise):
    mask = np.zeros((height, width), bool)
    mask[seed % height, seed % width] = True
    scan, again = (simulate_gaze(mask, np.random.default_rng(seed), noise) for _ in range(2))
    np.testing.assert_array_equal(scan.x, again.x)
    assert 1 <= len(scan) <= 100
    assert scan.duration.min() >= 50
    for axis in (scan.x, scan.y):
        assert axis.min() >= 0
        assert axis.max() <= 1


def test_an_empty_mask_or_an_unknown_tracker_is_an_error():
    with pytest.raises(DatasetError, match="empty"):
        simulate_gaze(np.zeros((4, 4)), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="eyelink, webcam"):
        simulate_gaze(np.ones((4, 4)), np.random.default_rng(0), "tobii")


@pytest.mark.parametrize("size", [32, 128])
def test_a_lesion_is_seen_by_its_texture_and_not_by_a_threshold(size):
    images, masks = zip(*(phantom(size, np.random.default_rng(i)) for i in range(12)), strict=True)
    for image, mask in zip(images, masks, strict=True):
        assert image.shape == (size, size, 3)
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}
        assert 0.02 < mask.mean() < 0.4
        assert not mask[[0, -1]].any()
        assert not mask[:, [0, -1]].any()
    grey = np.stack(images).mean(axis=-1)
    truth = np.stack(masks).astype(bool)
    cuts = [mask for t in np.quantile(grey, np.arange(0.1, 1, 0.1)) for mask in (grey >= t, grey < t)]
    assert max(2 * (truth & cut).sum() / (truth.sum() + cut.sum()) for cut in cuts) < 0.5


def test_phantoms_are_a_dataset_folder_of_the_same_bytes_each_time(tmp_path):
    first, second = (write_phantoms(tmp_path / name, count, 48, seed=3) for name, count in (("a", 3), ("b", 2)))
    data = Dataset.open(first)
    table = read_fixations(data.fixations, data.images)
    assert list(table.paths) == ["phantom_0000", "phantom_0001", "phantom_0002"]
    assert not table.dropped
    assert not table.skipped
    assert data.mask("phantom_0000").shape == (48, 48)
    for path in sorted(second.glob("*/*.png")):
        assert path.read_bytes() == (first / path.relative_to(second)).read_bytes()
    assert (first / "fixations.csv").read_text().startswith((second / "fixations.csv").read_text())
    other = write_phantoms(tmp_path / "c", 1, 48, seed=4)
    assert (other / "images/phantom_0000.png").read_bytes() != (first / "images/phantom_0000.png").read_bytes()


@pytest.mark.parametrize(("count", "size"), [(0, 64), (1, 31)])
def test_phantoms_that_cannot_be_made_are_an_error(tmp_path, count, size):
    with pytest.raises(ConfigError, match="phantoms"):
        write_phantoms(tmp_path, count, size)
