"""Targets that an averaged teacher cuts anew at every step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_config

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.training.learning.data import pack_gaze
from gazeseg_serve.training.learning.loop import train
from gazeseg_serve.training.learning.relabel import combine
from gazeseg_serve.training.learning.sharpen import gain_at, sharpened_targets, teacher_logits
from gazeseg_serve.training.masks.folder import load_map
from gazeseg_serve.training.masks.levels import pseudo_mask_levels
from gazeseg_serve.training.networks.ensemble import Ensemble

AVERAGED = ("optimiser.average=0.9",)


@pytest.mark.parametrize("gain", [0.0, 1 / 3, 1.0])
def test_one_class_is_what_relabel_makes_of_the_same_opinion(gain: float) -> None:
    rng = np.random.default_rng(0)
    maps, logits = rng.random((3, 1, 16, 16), np.float32), rng.normal(0, 3, (3, 1, 16, 16)).astype(np.float32)
    found = sharpened_targets(torch.from_numpy(maps), torch.from_numpy(logits), gain, (0.5, 0.3)).numpy()
    for i in range(3):
        combined = combine(maps[i], 1 / (1 + np.exp(-logits[i])), gain)[0]
        for level, t in enumerate((0.5, 0.3)):
            clear = np.abs(combined - t) > 1e-4  # rounding may decide a tie either way
            assert np.array_equal(found[level, i][clear], (combined >= t)[clear])
    assert 0 < found.mean() < 1


def test_several_classes_take_the_likeliest_that_reaches_the_threshold() -> None:
    rng = np.random.default_rng(1)
    maps, logits = rng.random((2, 3, 8, 8), np.float32), rng.normal(0, 2, (2, 4, 8, 8)).astype(np.float32)
    found = sharpened_targets(torch.from_numpy(maps), torch.from_numpy(logits), 0.5, (0.6, 0.4)).numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for i in range(2):
        wanted = pseudo_mask_levels(combine(maps[i], p[i, 1:], 0.5), (0.6, 0.4))
        assert np.mean(found[:, i] != wanted) < 0.01
    assert set(np.unique(found)) == {0, 1, 2, 3}


def test_a_silent_teacher_leaves_the_gaze_s_own_masks() -> None:
    maps = torch.rand(2, 1, 16, 16)
    kept = sharpened_targets(maps, torch.zeros(2, 1, 16, 16), 1.0, (0.5, 0.3))
    assert torch.equal(kept, torch.stack([(maps[:, 0] >= t) for t in (0.5, 0.3)]).to(torch.uint8))


def test_the_teacher_s_say_rises_to_its_gain() -> None:
    gains = [gain_at(step, 100, 0.6) for step in range(100)]
    assert gains[:21] == [0.0] * 21
    assert gains == sorted(gains)
    assert gains[35] == pytest.approx(0.3)
    assert set(gains[50:]) == {0.6}


def test_the_teacher_answers_without_gradient_and_by_its_kept_statistics() -> None:
    config = tiny_config(*AVERAGED)
    teacher = Ensemble(config.architecture, config.input_spec, [0, 1])
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    logits = teacher_logits(teacher, images)
    assert not logits.requires_grad
    torch.testing.assert_close(teacher_logits(teacher, images[:1]), logits[:1])  # no batch statistics
    with torch.no_grad():
        torch.testing.assert_close(logits, teacher(teacher.normalise(images)).mean(dim=0))


def test_the_maps_are_packed_uncut(phantoms: Path, phantom_masks: Path) -> None:
    dataset, config = Dataset.open(phantoms), tiny_config()
    stems = sorted(dataset.images)[:3]
    packed = pack_gaze(dataset, stems, phantom_masks, config.input_spec, (0.5, 0.3), False, whole=True)
    assert packed.targets.shape == (3, 1, 32, 32)
    assert packed.targets.dtype == np.float16
    cut = pack_gaze(dataset, stems, phantom_masks, config.input_spec, (0.5, 0.3), False).targets
    assert np.mean((packed.targets >= 0.5) != cut[:, :1]) < 0.01
    assert packed.targets.max() > 0.9 * load_map(phantom_masks, stems[0], False).max()


def test_a_taught_training_ends_elsewhere(phantoms: Path, phantom_masks: Path, tmp_path: Path) -> None:
    weights = []
    for name, gain in (("plain", 0.0), ("taught", 5.0)):
        train(tiny_config(*AVERAGED, "optimiser.steps=6", f"data.sharpen={gain}"), phantoms, phantom_masks, tmp_path / name)
        weights.append(load_file(tmp_path / name / "level_1.safetensors"))
    assert any(not torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("data.sharpen=0.3",), "optimiser.average"),
        ((*AVERAGED, "data.sharpen=-1.0"), r"in \[0, 10\]"),
        ((*AVERAGED, "data.sharpen=0.3", "data.supervision=full"), "of gaze maps"),
    ],
)
def test_settings_that_contradict_are_named(settings: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny_config(*settings)
