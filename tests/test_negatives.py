"""What shows nothing teaches nothing but that: negatives.txt, crops that nobody looked at, and their way through training."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config

from gazeseg_serve.contract import Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.files import write_bytes, write_text
from gazeseg_serve.metrics import dice
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.gaze.simulate import write_phantoms
from gazeseg_serve.training.learning import loop
from gazeseg_serve.training.learning.augment import Augmenter
from gazeseg_serve.training.learning.config import Augment
from gazeseg_serve.training.learning.data import Packed
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.learning.negatives import SIDES, Empty, draw, empty_box, empty_indices, looked_at, pack_negatives
from gazeseg_serve.training.learning.relabel import relabel
from gazeseg_serve.training.learning.run_folder import begin_with
from gazeseg_serve.training.masks.folder import load_map, load_masks_info
from gazeseg_serve.training.masks.make import make_masks
from gazeseg_serve.training.masks.settings import MaskSettings
from gazeseg_serve.training.networks.ensemble import Ensemble, load_ensemble

THRESHOLDS = (0.5, 0.3)
NEGATIVES = ("phantom_0002", "phantom_0005", "plain_0", "plain_1")  # two with gaze, two without


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantoms and two even images; two of either are negatives, of which one is in the validation split."""
    root = write_phantoms(tmp_path_factory.mktemp("negatives") / "data", 12, 48, seed=3)
    for i in range(2):
        write_bytes(root / "images" / f"plain_{i}.png", encode_png(np.full((48, 48, 3), 60 + 90 * i, np.uint8)))
    write_text(root / "negatives.txt", "\n".join(NEGATIVES))
    write_text(root / "splits" / "val.txt", "phantom_0000\nphantom_0001\nplain_1\n")
    return root


@pytest.fixture(scope="module")
def masks(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masks") / "masks"
    summary = make_masks(folder, out, MaskSettings(crf=None), jobs=1)
    assert (summary.images, summary.negatives, summary.skipped) == (10, 4, {})
    return out


def test_negatives_get_no_map_and_are_listed(folder: Path, masks: Path) -> None:
    info = load_masks_info(masks)
    assert set(info.negatives) == set(NEGATIVES)
    assert not set(info.stems) & set(NEGATIVES)
    with (masks / "quality.csv").open() as file:
        status = {row["image"]: row["status"] for row in csv.DictReader(file)}
    assert {stem for stem, word in status.items() if word == "negative"} == set(NEGATIVES)
    assert "4 images in which the reader found nothing" in (masks / "quality.html").read_text()


def test_an_image_without_gaze_that_is_not_listed_stays_a_skip(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "data")
    write_text(tmp_path / "data" / "negatives.txt", "plain_0\n")
    summary = make_masks(tmp_path / "data", tmp_path / "masks", MaskSettings(crf=None), jobs=1)
    assert set(summary.skipped) == {"plain_1"}
    write_text(tmp_path / "data" / "negatives.txt", "\n".join(path.stem for path in (folder / "images").iterdir()))
    with pytest.raises(DatasetError, match="every image with gaze"):
        make_masks(tmp_path / "data", tmp_path / "other", MaskSettings(crf=None), jobs=1)


def test_a_negative_whose_mask_is_not_empty_is_called_out(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "gazeseg_serve"):
        make_masks(folder, tmp_path / "masks", MaskSettings(crf=None), jobs=1)
    assert "2 of the negatives hold foreground in their true mask, phantom_0002 for one" in caplog.text


@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 99), st.floats(0, 0.02))
def test_an_empty_box_holds_nothing_and_keeps_the_shape(height: int, width: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    taken = rng.random((height, width)) < share
    box = empty_box(taken, rng)
    if box is None:
        assert taken.any()
        return
    assert not taken[box].any()
    for side, whole in zip(taken[box].shape, (height, width), strict=True):
        assert SIDES[0] * whole - 1 <= side <= SIDES[1] * whole + 1


def test_where_all_is_looked_at_there_is_no_box() -> None:
    assert empty_box(np.ones((20, 30), bool), np.random.default_rng(0)) is None
    assert empty_box(np.zeros((20, 30), bool), np.random.default_rng(0)) is not None


def test_crops_hold_neither_gaze_nor_a_pseudo_mask(folder: Path, masks: Path) -> None:
    dataset, spec = Dataset.open(folder), tiny_config().input_spec
    stems = dataset.splits()["train"]
    empty = pack_negatives(dataset, stems, spec, masks, THRESHOLDS, seed=0)
    assert empty.names[: empty.whole] == ("phantom_0002", "phantom_0005", "plain_0")
    assert len(empty) > empty.whole, "these phantoms leave room"
    assert empty.images.shape == (len(empty), 32, 32, 3)
    assert (empty.images[2] == 60).all()
    again = pack_negatives(dataset, stems, spec, masks, THRESHOLDS, seed=0)
    assert again.fingerprint() == empty.fingerprint()
    assert pack_negatives(dataset, stems, spec, masks, THRESHOLDS, seed=1).fingerprint() != empty.fingerprint()
    for stem in load_masks_info(masks).stems:
        heat, taken = load_map(masks, stem, refined=False), looked_at(masks, stem, THRESHOLDS)
        np.testing.assert_array_equal(taken, heat >= 0.1)  # without CRF the pseudo-masks lie inside


def test_without_maps_only_whole_images_are_negatives(folder: Path) -> None:
    dataset, spec = Dataset.open(folder), tiny_config().input_spec
    empty = pack_negatives(dataset, dataset.splits()["train"], spec, None, THRESHOLDS, seed=0)
    assert len(empty) == empty.whole == 3
    with pytest.raises(DatasetError, match=r"data\.negatives = 0"):
        pack_negatives(dataset, ("phantom_0003",), spec, None, THRESHOLDS, seed=0)


def _packed(count: int) -> Packed:
    images = np.full((count, 4, 4, 3), 200, np.uint8)
    return Packed(tuple(f"image {i}" for i in range(count)), images, np.ones((count, 2, 4, 4), np.uint8))


def _empty(whole: int, crops: int) -> Empty:
    images = np.zeros((whole + crops, 4, 4, 3), np.uint8)
    return Empty(tuple(f"empty {i}" for i in range(whole + crops)), images, whole)


@given(st.integers(0, 30), st.integers(1, 9), st.floats(0, 0.99), st.integers(0, 3), st.integers(0, 3))
def test_a_batch_has_its_share_of_negatives_and_they_are_background(
    step: int, batch: int, share: float, whole: int, crops: int
) -> None:
    empty = _empty(whole, crops) if whole + crops else None
    images, targets, negative, names = draw(_packed(5), empty, step, batch, share, seed=0)
    count = 0 if empty is None else min(batch - 1, round(share * batch))
    assert (len(images), len(targets), len(names), int(negative.sum())) == (batch, batch, batch, count)
    assert not targets[negative].any()
    assert (targets[~negative] == 1).all()
    assert (images[negative] == 0).all()
    assert [name.startswith("empty") for name in names] == negative.tolist()
    again = draw(_packed(5), empty, step, batch, share, seed=0)
    assert torch.equal(again[0], images)
    assert again[3] == names


def test_few_whole_images_are_not_lost_among_many_crops() -> None:
    empty = _empty(2, 500)
    taken = np.concatenate([empty_indices(step, empty, 4, seed=0) for step in range(300)])
    assert 0.4 < np.mean(taken < 2) < 0.6
    assert len(np.unique(taken)) > 300


def test_training_takes_negatives_in_and_no_teacher_writes_into_them(
    folder: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A teacher that sees a target everywhere: what it makes of a negative must stay background.
    monkeypatch.setattr(loop, "teacher_logits", lambda model, images: torch.full((len(images), 1, 32, 32), 50.0))
    monkeypatch.setattr(loop, "gain_at", lambda step, steps, gain: 1.0)
    seen = []
    real = loop.total_loss

    def watched(model: Ensemble, images: torch.Tensor, targets: torch.Tensor, *rest: object) -> object:
        seen.append(targets.clone())
        return real(model, images, targets, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "total_loss", watched)
    config = tiny_config("data.negatives=0.5", "data.sharpen=1.0", "optimiser.average=0.9")
    run = train(config, folder, masks, tmp_path / "run", device="cpu")
    assert seen
    for targets in seen:  # (m, B, H, W); of four images the last two are negatives
        assert (targets[:, :2] == 1).all()
        assert not targets[:, 2:].any()
    assert "negatives" in run.fingerprints
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(0 <= float(row["false_alarms"]) <= 1 for row in rows)


def test_negatives_teach_no_target_where_they_are_left_out(folder: Path, masks: Path, tmp_path: Path) -> None:
    run = train(tiny_config(), folder, masks, tmp_path / "run", device="cpu")
    assert "negatives" not in run.fingerprints
    info = relabel(tmp_path / "run", folder, masks, tmp_path / "relabelled")
    assert info  # phantoms have true masks to be scored against
    assert not set(load_masks_info(tmp_path / "relabelled").stems) & set(NEGATIVES)


def test_a_training_begins_with_the_weights_of_another_at_its_own_size(folder: Path, masks: Path, tmp_path: Path) -> None:
    train(tiny_config(), folder, masks, tmp_path / "low", device="cpu")
    still = ("optimiser.rate=1e-12", "optimiser.final_rate=0.0", "optimiser.steps=1", "data.size=64")
    high = train(tiny_config(*still), folder, masks, tmp_path / "high", device="cpu", start=tmp_path / "low")
    assert high.input.size == 64
    (_, low_levels), (_, high_levels) = load_ensemble(tmp_path / "low"), load_ensemble(tmp_path / "high")
    for a, b in zip(low_levels.levels.parameters(), high_levels.levels.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    other = tiny_config("network.width=8")
    with pytest.raises(ConfigError, match="begin with a run of the same networks"):
        begin_with(Ensemble(other.architecture, other.input_spec, [0, 1]), tmp_path / "low")
    one = tiny_config("levels.thresholds=[0.5]")
    with pytest.raises(ConfigError, match=r"2 level\(s\)"):
        begin_with(Ensemble(one.architecture, one.input_spec, [0]), tmp_path / "low")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.negatives=1.0", "less than 1"),
        ("data.negatives=-0.1", "0 or more"),
        ("augment.zoom=[2.0, 0.5]", r"like \[0.35, 2.0\]"),
        ("augment.zoom=[1.0]", r"like \[0.35, 2.0\]"),
        ("augment.zoom=[0.0, 2.0]", r"like \[0.35, 2.0\]"),
    ],
)
def test_a_wrong_value_is_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_config(override)
    with pytest.raises(ConfigError, match="in place of"):
        tiny_config("augment.zoom=[0.5, 2.0]", "augment.scale=0.25")


def test_zoom_is_log_uniform_and_moves_image_and_target_alike() -> None:
    size, half = 64, 8
    images = torch.zeros(256, 1, size, size)
    images[:, :, size // 2 - half : size // 2 + half, size // 2 - half : size // 2 + half] = 1
    augment = Augmenter(Augment(flips=False, zoom=(0.5, 2.0)))
    moved, targets = augment(images, images.to(torch.uint8), seed=0)
    sides = targets.float().sum(dim=(1, 2, 3)).sqrt() / (2 * half)  # of the square, against its own
    assert 0.45 < sides.min() < 0.6
    assert 1.8 < sides.max() < 2.15
    assert 0.4 < (sides < 1).float().mean() < 0.6  # uniform would put a third there
    agreed = [dice((image > 0.5).numpy(), (target > 0).numpy()) for image, target in zip(moved, targets, strict=True)]
    assert min(agreed) > 0.8


def test_run_json_names_the_negatives_it_learned_from(folder: Path, masks: Path, tmp_path: Path) -> None:
    train(tiny_config("data.negatives=0.25"), folder, masks, tmp_path / "run", device="cpu")
    found = Run.load(tmp_path / "run").fingerprints["negatives"]
    dataset = Dataset.open(folder)
    spec = tiny_config().input_spec
    assert found == pack_negatives(dataset, dataset.splits()["train"], spec, masks, THRESHOLDS, seed=0).fingerprint()
