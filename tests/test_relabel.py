"""Relabelling adds log odds, knows no true mask, and writes a folder that training reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config

from gazeseg_serve.contract import Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError, DatasetError
from gazeseg_serve.training.learning.data import pack_gaze
from gazeseg_serve.training.learning.relabel import combine, relabel
from gazeseg_serve.training.masks.folder import load_map, load_masks_info
from gazeseg_serve.training.networks.ensemble import load_ensemble

CHANCE = st.floats(0.0, 1.0, width=32)


@given(CHANCE, st.floats(2**-10, 1 - 2**-10, width=32), st.floats(0, 2))
def test_log_odds_are_added(gaze: float, network: float, gain: float) -> None:
    found = combine(np.full((1, 1, 1), gaze, np.float32), np.full((1, 1, 1), network, np.float32), gain)
    assert found.dtype == np.float32
    a, b = np.clip(gaze, 0.02, 0.98), network
    odds = a / (1 - a) * (b / (1 - b)) ** gain
    assert found.item() == pytest.approx(odds / (1 + odds), abs=1e-4)


def test_a_network_without_an_opinion_keeps_the_map() -> None:
    maps = np.linspace(0.05, 0.95, 12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_allclose(combine(maps, np.full_like(maps, 0.5), 1.0), maps, atol=1e-6)
    np.testing.assert_allclose(combine(maps, np.full_like(maps, 0.9), 0.0), maps, atol=1e-6)


@pytest.fixture(scope="module")
def relabelled(tiny_run: Path, phantoms: Path, phantom_masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("relabelled") / "masks"
    means = relabel(tiny_run, phantoms, phantom_masks, out, gain=0.5)
    assert set(means) == {f"{when}_level_{i}" for when in ("before", "after") for i in (1, 2)}
    return out


def test_each_map_is_the_old_one_and_the_ensemble_s_flip_averaged_logit(
    relabelled: Path, tiny_run: Path, phantoms: Path, phantom_masks: Path
) -> None:
    run, ensemble = load_ensemble(tiny_run)
    info = load_masks_info(relabelled)
    assert set(info.stems) == set(run.splits["train"])
    dataset, stem = Dataset.open(phantoms), info.stems[3]
    image = dataset.image(stem, 3)
    assert image.shape[:2] != (32, 32)

    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    logits = np.zeros((32, 32))
    for rows, columns in ((1, 1), (-1, 1), (1, -1), (-1, -1)):
        x = torch.from_numpy(small[::rows, ::columns].copy()).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            said = ensemble(ensemble.normalise(x)).mean(0)[0, 0].numpy()
        logits += said[::rows, ::columns] / 4
    large = cv2.resize(logits.astype(np.float32), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    old = np.clip(load_map(phantom_masks, stem, refined=False), 0.02, 0.98)
    odds = np.log(old / (1 - old)) + 0.5 * large
    np.testing.assert_allclose(load_map(relabelled, stem, refined=False), 1 / (1 + np.exp(-odds)), atol=1e-4)


def test_training_reads_it_and_it_says_where_it_comes_from(
    relabelled: Path, phantoms: Path, phantom_masks: Path, tiny_run: Path
) -> None:
    packed = pack_gaze(
        Dataset.open(phantoms),
        Run.load(tiny_run).splits["train"],
        relabelled,
        tiny_config().input_spec,
        (0.5, 0.3),
        refined=False,
    )
    assert len(packed) == len(Run.load(tiny_run).splits["train"])
    info, before = load_masks_info(relabelled), load_masks_info(phantom_masks)
    assert info.relabelled is not None
    assert (info.relabelled["masks"], info.relabelled["gain"]) == (before.fingerprint, 0.5)
    assert info.fingerprint != before.fingerprint
    assert before.relabelled is None


def test_true_masks_have_no_part_in_the_maps(
    relabelled: Path, tiny_run: Path, phantoms: Path, phantom_masks: Path, tmp_path: Path
) -> None:
    shutil.copytree(phantoms, tmp_path / "data", ignore=shutil.ignore_patterns("masks"))
    assert relabel(tiny_run, tmp_path / "data", phantom_masks, tmp_path / "blind", gain=0.5) == {}
    stem = load_masks_info(relabelled).stems[0]
    np.testing.assert_array_equal(load_map(tmp_path / "blind", stem, False), load_map(relabelled, stem, False))


def test_wrong_input_is_named_and_leaves_nothing(tiny_run: Path, phantoms: Path, phantom_masks: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gain -1"):
        relabel(tiny_run, phantoms, phantom_masks, tmp_path / "out", gain=-1)
    shutil.copytree(phantoms, tmp_path / "data")
    for path in (tmp_path / "data" / "images").iterdir():
        path.rename(path.with_stem("other_" + path.stem))
    with pytest.raises(DatasetError, match="no training image"):
        relabel(tiny_run, tmp_path / "data", phantom_masks, tmp_path / "out")
    assert not (tmp_path / "out").exists()
