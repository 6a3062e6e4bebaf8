"""Relabelling of refined maps, and of several classes, against the formula written out."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save

from gazeseg_serve.contract import InputSpec, Level, Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.files import sha256
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.learning.data import pack_gaze
from gazeseg_serve.training.learning.relabel import combine, relabel
from gazeseg_serve.training.masks.folder import load_map, load_masks_info
from gazeseg_serve.training.masks.make import make_masks
from gazeseg_serve.training.masks.settings import CrfSettings, MaskSettings
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.ensemble import load_ensemble
from gazeseg_serve.training.networks.unet import seeded_unet

CLASSES = ("core", "rim")
STEMS = tuple(f"im{i}" for i in range(4))


def write_run(folder: Path, spec: InputSpec, splits: dict[str, tuple[str, ...]], levels: int = 2) -> Path:
    """A run of untrained networks that say something, at 32 x 32."""
    architecture = Architecture(4, "batch", spec.channels, spec.outputs)
    found = []
    folder.mkdir()
    for i in range(levels):
        network = seeded_unet(architecture, i).eval()
        with torch.no_grad():
            network.classifier.weight.mul_(20)
        weights = save(network.state_dict())
        (folder / f"level_{i + 1}.safetensors").write_bytes(weights)
        found.append(Level(0.5, f"level_{i + 1}.safetensors", sha256(weights)))
    Run(spec, asdict(architecture), tuple(found), {}, 0, splits, {}, {}).save(folder)
    return folder


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 40 x 48 with gaze and masks of two classes."""
    root = tmp_path_factory.mktemp("classes") / "data"
    rng = np.random.default_rng(0)
    rows = ["IMAGE,CURRENT_FIX_X,CURRENT_FIX_Y,CURRENT_FIX_DURATION,CLASS"]
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for stem in STEMS:
        noise = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        (root / "images" / f"{stem}.png").write_bytes(encode_png(cv2.resize(noise, (48, 40), interpolation=cv2.INTER_CUBIC)))
        labels = np.zeros((40, 48), np.uint8)
        labels[10:30, 5:20], labels[10:30, 25:40] = 1, 2
        (root / "masks" / f"{stem}.png").write_bytes(encode_png(labels))
        rows += [
            f"{stem},{x:.3f},{y:.3f},{200 + i},{name}"
            for name, (left, right) in zip(CLASSES, ((0.1, 0.4), (0.5, 0.8)), strict=True)
            for i, (x, y) in enumerate(zip(rng.uniform(left, right, 5), rng.uniform(0.3, 0.7, 5), strict=True))
        ]
    (root / "fixations.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def masks(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masks") / "masks"
    make_masks(dataset, out, MaskSettings(crf=CrfSettings(sxy=4.0, compat=3.0, iterations=3), classes=CLASSES), jobs=1)
    return out


def softmax(logits: np.ndarray) -> np.ndarray:
    z = np.exp(logits - logits.max(0))
    return z / z.sum(0)


def mean_logits(run: Path, image: np.ndarray) -> np.ndarray:
    """`(K, 32, 32)`: the mean over the levels and over four flips, each flipped back, one at a time."""
    _, ensemble = load_ensemble(run)
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    total = np.zeros((ensemble.spec.outputs, 32, 32))
    for rows, columns in itertools.product((1, -1), repeat=2):
        x = torch.from_numpy(small[::rows, ::columns].copy()).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            total += ensemble(ensemble.normalise(x)).mean(0)[0].numpy()[:, ::rows, ::columns] / 4
    return total


def by_hand(maps: np.ndarray, chances: Sequence[np.ndarray], gain: float) -> np.ndarray:
    out = []
    for gaze, p in zip(maps, chances, strict=True):
        large = cv2.resize(np.log(p / (1 - p)).astype(np.float32), gaze.shape[::-1], interpolation=cv2.INTER_LINEAR)
        old = np.clip(gaze, 0.02, 0.98)
        out.append(1 / (1 + np.exp(-(np.log(old / (1 - old)) + gain * large))))
    return np.stack(out)


def test_several_classes_are_relabelled_each_by_its_own_probability_on_the_refined_maps(
    dataset: Path, masks: Path, tmp_path: Path
) -> None:
    spec = InputSpec(32, classes=CLASSES)
    run = write_run(tmp_path / "run", spec, {"train": STEMS[:3], "val": STEMS[3:]})
    means = relabel(run, dataset, masks, tmp_path / "out", gain=0.5)
    info = load_masks_info(tmp_path / "out")
    assert info.stems == STEMS[:3]
    assert not (tmp_path / "out" / "heatmaps").exists(), "training would not know which of the two are the new ones"
    data = Dataset.open(dataset)
    for stem in STEMS[:3]:
        old = load_map(masks, stem, refined=True)
        assert np.abs(old - load_map(masks, stem, refined=False)).max() > 0.05, "the CRF changed something"
        chances = softmax(mean_logits(run, data.image(stem)))[1:]
        new = load_map(tmp_path / "out", stem, refined=True)
        np.testing.assert_allclose(new, by_hand(old, chances, 0.5), atol=2e-4)
    assert set(means) == {f"{when}_level_{i}" for when in ("before", "after") for i in (1, 2)}
    with (tmp_path / "out" / "quality.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == list(STEMS[:3])
    for name, value in means.items():
        assert value == pytest.approx(np.mean([float(row[name]) for row in rows]))
    truth, old, new = data.mask("im1", 2), load_map(masks, "im1", True), load_map(tmp_path / "out", "im1", True)
    for when, maps in (("before", old), ("after", new)):
        for level, threshold in enumerate((0.5, 0.3), start=1):
            labels = np.where(maps.max(0) >= threshold, maps.argmax(0) + 1, 0)
            dice = [2 * ((labels == c) & (truth == c)).sum() / max(1, (labels == c).sum() + (truth == c).sum()) for c in (1, 2)]
            assert float(rows[1][f"{when}_level_{level}"]) == pytest.approx(np.mean(dice), abs=2e-3)
    packed = pack_gaze(data, STEMS[:3], tmp_path / "out", spec, (0.5, 0.3), refined=True)
    assert packed.targets.shape == (3, 2, 32, 32)


def test_without_a_crf_the_heatmaps_are_relabelled(dataset: Path, tmp_path: Path) -> None:
    make_masks(dataset, tmp_path / "plain", MaskSettings(crf=None, classes=CLASSES), jobs=1)
    run = write_run(tmp_path / "run", InputSpec(32, classes=CLASSES), {"train": STEMS, "val": ()})
    relabel(run, dataset, tmp_path / "plain", tmp_path / "out", gain=0.0)
    assert not (tmp_path / "out" / "refined").exists()
    for stem in STEMS:
        np.testing.assert_allclose(
            load_map(tmp_path / "out", stem, False), np.clip(load_map(tmp_path / "plain", stem, False), 0.02, 0.98), atol=2e-5
        )


def test_more_images_than_fit_a_batch_keep_their_own_opinions(
    dataset: Path, masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gazeseg_serve.training.learning import relabel as module

    spec = InputSpec(32, classes=CLASSES)
    run = write_run(tmp_path / "run", spec, {"train": STEMS, "val": ()})
    relabel(run, dataset, masks, tmp_path / "whole", gain=1.0)
    monkeypatch.setattr(module, "_BATCH", 3)
    relabel(run, dataset, masks, tmp_path / "parts", gain=1.0)
    for stem in STEMS:
        np.testing.assert_allclose(
            load_map(tmp_path / "parts", stem, True), load_map(tmp_path / "whole", stem, True), atol=1e-4
        )


def test_another_number_of_classes_is_refused_before_anything_is_written(dataset: Path, masks: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", InputSpec(32), {"train": STEMS, "val": ()})
    with pytest.raises(ConfigError, match=r"2 class\(es\).*knows 1"):
        relabel(run, dataset, masks, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gain", [-1e-9, float("nan"), float("inf")])
def test_a_gain_that_is_none_is_refused(gain: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gain"):
        relabel(tmp_path, tmp_path, tmp_path, tmp_path / "out", gain=gain)


def test_a_map_is_never_surer_than_its_floor() -> None:
    maps = np.array([[[0.0, 0.01, 0.02, 0.5, 0.98, 0.99, 1.0]]], np.float32)
    kept = combine(maps, np.full_like(maps, 0.5), 1.0)
    np.testing.assert_allclose(kept, [[[0.02, 0.02, 0.02, 0.5, 0.98, 0.98, 0.98]]], atol=1e-6)
