"""Annotations simulated from masks: what each scheme labels, and a training on each."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import binary_fill_holes, distance_transform_edt
from scipy.ndimage import label as connected
from tiny import tiny_config

from gazeseg_serve.contract import Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.training.learning.annotations import annotate
from gazeseg_serve.training.learning.augment import Augmenter
from gazeseg_serve.training.learning.config import SCHEMES, Augment
from gazeseg_serve.training.learning.data import pack_annotated
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.learning.losses import segmentation_loss
from gazeseg_serve.training.masks.levels import IGNORE


def ellipses(seed: int, classes: int = 2, side: int = 40) -> np.ndarray:
    """Labels with one ellipse a class, the later over the earlier."""
    generator, (y, x) = np.random.default_rng(seed), np.mgrid[:side, :side]
    mask = np.zeros((side, side), np.uint8)
    for label in range(1, classes + 1):
        cy, cx = generator.uniform(8, side - 8, 2)
        a, b = generator.uniform(3, 9, 2)
        mask[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] = label
    return mask


@given(st.integers(0, 10_000), st.sampled_from(["point", "scribble"]))
def test_sparse_annotations_say_nothing_wrong_and_little(seed: int, scheme: str) -> None:
    mask = ellipses(seed)
    labels = annotate(mask, scheme)
    known = labels != IGNORE
    np.testing.assert_array_equal(labels[known], mask[known])
    assert set(np.unique(labels[known])) == set(np.unique(mask))  # something of every class, and of the background
    assert known.mean() < (0.02 if scheme == "point" else 0.2)
    np.testing.assert_array_equal(labels, annotate(mask.copy(), scheme))


@given(st.integers(0, 10_000))
def test_a_point_is_the_deepest_pixel(seed: int) -> None:
    mask = ellipses(seed, classes=1)
    labels = annotate(mask, "point")
    for label in (0, 1):
        clicked = labels == label
        assert clicked.sum() <= 9
        depth = distance_transform_edt(np.pad(mask == label, 1))[1:-1, 1:-1]
        assert depth[clicked].max() == depth.max()


@given(st.integers(0, 10_000))
def test_a_skeleton_is_thin_and_keeps_the_regions_whole(seed: int) -> None:
    mask = binary_fill_holes(ellipses(seed, classes=1)).astype(np.uint8)
    line = annotate(mask, "scribble") == 1
    assert connected(line, np.ones((3, 3)))[1] == connected(mask, np.ones((3, 3)))[1]
    assert cv2.erode(line.astype(np.uint8), np.ones((3, 3), np.uint8)).sum() == 0


def test_boxes_are_filled_and_the_smaller_lies_on_top() -> None:
    mask = np.zeros((12, 12), np.uint8)
    mask[1:9, 1] = mask[8, 1:9] = 1  # an L, whose box is 8 x 8
    mask[3, 4:6] = 2
    mask[10:12, 10:12] = 1
    wanted = np.zeros((12, 12), np.uint8)
    wanted[1:9, 1:9] = wanted[10:, 10:] = 1
    wanted[3, 4:6] = 2
    np.testing.assert_array_equal(annotate(mask, "box"), wanted)
    np.testing.assert_array_equal(annotate(mask, "full"), mask)
    assert not annotate(np.zeros((5, 5), np.uint8), "box").any()


@pytest.fixture
def dataset(phantoms: Path, tmp_path: Path) -> Path:
    """`phantoms` without fixations, and with a real scribble for one image."""
    root = tmp_path / "data"
    for kind in ("images", "masks"):
        shutil.copytree(phantoms / kind, root / kind)
    scribble = np.full((48, 48), 4, np.uint8)
    scribble[:3], scribble[24, 20:30] = 0, 1
    (root / "scribbles").mkdir()
    cv2.imwrite(str(root / "scribbles" / "phantom_0000.png"), scribble)
    return root


def test_packed_annotations_are_of_the_network_s_size_and_alike_for_every_level(dataset: Path) -> None:
    data, spec = Dataset.open(dataset), tiny_config().input_spec
    packed = pack_annotated(data, tuple(data.images)[:3], spec, 2, "scribble")
    assert packed.targets.shape == (3, 2, 32, 32)
    np.testing.assert_array_equal(packed.targets[:, 0], packed.targets[:, 1])
    assert set(np.unique(packed.targets[0])) == {0, 1, IGNORE}
    assert (packed.targets[0, 0, :2] == 0).all()  # the real one; a skeleton would not lie at the rim
    assert (packed.targets[0, 0, 3:10] == IGNORE).all()
    (dataset / "masks" / "phantom_0001.png").unlink()
    assert pack_annotated(data.open(dataset), tuple(data.images)[:3], spec, 1, "full").stems == ("phantom_0000", "phantom_0002")
    cv2.imwrite(str(dataset / "scribbles" / "phantom_0000.png"), np.zeros((9, 9), np.uint8))
    with pytest.raises(DatasetError, match="image's size"):
        pack_annotated(data, tuple(data.images), spec, 2, "scribble")
    shutil.rmtree(dataset / "masks")
    with pytest.raises(DatasetError, match="no masks/"):
        pack_annotated(data.open(dataset), tuple(data.images), spec, 2, "box")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_trains_without_gaze(dataset: Path, scheme: str, tmp_path: Path) -> None:
    config = tiny_config(f"data.supervision={scheme}")
    train(config, dataset, None, tmp_path / "run", device="cpu")
    run = Run.load(tmp_path / "run")
    assert run.config["data"]["supervision"] == scheme
    assert set(run.fingerprints) == {"images", "pseudo_masks"}


def test_what_comes_in_from_outside_is_unknown_where_annotations_are_sparse() -> None:
    targets = torch.ones(2, 1, 32, 32, dtype=torch.uint8)
    _, moved = Augmenter(Augment(flips=False, rotate=45.0), outside=IGNORE)(torch.rand(2, 3, 32, 32), targets, seed=3)
    assert set(moved.unique().tolist()) == {1, IGNORE}


def test_unlabelled_pixels_have_no_gradient() -> None:
    logits = torch.randn(1, 2, 1, 8, 8, requires_grad=True)
    targets = torch.full((1, 2, 8, 8), IGNORE, dtype=torch.uint8)
    targets[0, 0, 2, 3], targets[0, 1, 5, 5] = 1, 0
    segmentation_loss(logits, targets).backward()
    assert logits.grad is not None
    assert {tuple(i) for i in logits.grad.nonzero().tolist()} == {(0, 0, 0, 2, 3), (0, 1, 0, 5, 5)}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("data.supervision=guess",), "gaze, full, box, box_points, extreme, point, scribble"),
        (("data.supervision=full", "data.sharpen=0.3", "optimiser.average=0.9"), "of gaze maps"),
        (("data.supervision=full", "levels.shared_start=true"), "shared_start = false"),
    ],
)
def test_a_supervision_that_makes_no_sense_is_named(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_config(*overrides)


@given(st.integers(0, 10_000))
def test_points_in_boxes_tell_the_mask_s_own_label_and_the_box(seed: int) -> None:
    mask = ellipses(seed, classes=1)
    if not mask.any():
        return
    box, labels = annotate(mask, "box"), annotate(mask, "box_points")
    np.testing.assert_array_equal(labels == IGNORE, (box > 0) & (labels == IGNORE))
    assert (labels[box == 0] == 0).all()
    known = (box > 0) & (labels != IGNORE)
    np.testing.assert_array_equal(labels[known], mask[known])
    assert 1 <= known.sum() <= 10 * connected(mask, np.ones((3, 3)))[1]
    np.testing.assert_array_equal(labels, annotate(mask.copy(), "box_points"))


def test_ten_points_are_spread_over_the_box() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[4:60, 4:32] = 1
    mask[4, 4:60] = 1  # so that half the box is background
    labels = annotate(mask, "box_points")
    inside = labels[4:60, 4:60]
    assert (inside != IGNORE).sum() == 10
    assert 1 <= (inside == 0).sum() <= 9


@given(st.integers(0, 10_000))
def test_extreme_points_span_the_box_and_say_nothing_wrong(seed: int) -> None:
    mask = ellipses(seed, classes=1)
    if not mask.any():
        return
    labels, box = annotate(mask, "extreme"), annotate(mask, "box")
    clicked = labels == 1
    assert clicked.sum() <= 36 * connected(mask, np.ones((3, 3)))[1]
    assert (mask[clicked] == 1).all()
    for axis in (0, 1):
        spanned, wanted = np.flatnonzero(clicked.any(axis=axis)), np.flatnonzero((mask == 1).any(axis=axis))
        assert (spanned[0], spanned[-1]) == (wanted[0], wanted[-1])
    assert (labels[box == 0] == 0).all()
    assert set(np.unique(labels[box > 0])) <= {1, IGNORE}
