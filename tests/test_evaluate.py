from __future__ import annotations

import csv
import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save
from scipy.ndimage import binary_erosion, distance_transform_edt

from gazeseg_serve.contract import IMAGENET_MEAN, IMAGENET_STD, Artifact, Level, Run
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ContractError, DatasetError
from gazeseg_serve.files import sha256_file
from gazeseg_serve.pixels import resize_image
from gazeseg_serve.presence import Presence
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.unet import UNet
from gazeseg_serve.training.scoring.calibration import Reliability
from gazeseg_serve.training.scoring.evaluate import Evaluation, Score, evaluate, hd95, run_members


def slow_hd95(a: np.ndarray, b: np.ndarray) -> float:
    """The larger of the two directed 95th percentiles of surface distances (what MONAI computes)."""
    edges = [m & ~binary_erosion(m) for m in (a, b)]
    there, back = distance_transform_edt(~edges[1])[edges[0]], distance_transform_edt(~edges[0])[edges[1]]
    return max(np.percentile(there, 95), np.percentile(back, 95))


def test_hd95_against_distance_transforms() -> None:
    y, x = np.mgrid[:60, :70]
    a, b = (y - 30) ** 2 + (x - 30) ** 2 < 200, (y - 33) ** 2 + (x - 38) ** 2 < 250
    assert hd95(a, b) == pytest.approx(slow_hd95(a, b), abs=1e-4)
    assert hd95(a, a) == 0
    assert np.isnan(hd95(a, np.zeros_like(a)))
    large = [np.kron(m, np.ones((8, 8), bool)) for m in (a, b)]
    assert hd95(*large) == pytest.approx(8 * slow_hd95(a, b), rel=0.1)  # in the large image's own pixels


def test_a_run_is_scored_by_level_and_ensemble_on_its_own_split(tiny_run: Path, phantoms: Path, tmp_path: Path) -> None:
    evaluation = evaluate(tiny_run, phantoms, "val", tmp_path)
    assert evaluation.members() == ("level 1", "level 2", "ensemble")
    rows = evaluation.summary()
    assert all(0 <= row["dice_low"] <= row["dice"] <= row["dice_high"] <= 1 for row in rows)  # type: ignore[operator]
    with (tmp_path / "scores.csv").open() as file:
        scores = list(csv.DictReader(file))
    mean = np.mean([float(row["dice"]) for row in scores if row["member"] == "ensemble"])
    assert mean == pytest.approx(rows[-1]["dice"])
    picture = cv2.imread(str(tmp_path / "worst.png"))
    assert picture is not None
    assert picture.shape[0] == 222


@pytest.fixture(scope="module")
def three_levels(lively_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`lively_run` with a third level: the mean of the other two, with its bias moved."""
    run, out = Run.load(lively_run), tmp_path_factory.mktemp("three")
    files = [load_file(lively_run / level.weights) for level in run.levels]
    third = {key: (tensor + files[1][key]) / 2 if tensor.is_floating_point() else tensor for key, tensor in files[0].items()}
    third["classifier.bias"] += 0.5
    for i, state in enumerate([*files, third], start=1):
        (out / f"level_{i}.safetensors").write_bytes(save(state))
    levels = tuple(Level(0.2 * i, f"level_{i}.safetensors", sha256_file(out / f"level_{i}.safetensors")) for i in (1, 2, 3))
    dataclasses.replace(run, levels=levels).save(out)
    return out


def probabilities_by_hand(folder: Path, dataset: Dataset, stem: str, chosen: tuple[int, ...]) -> np.ndarray:
    """The mean logit of the chosen levels, resized with torch, as a probability at the image's size."""
    run, image = Run.load(folder), dataset.image(stem)
    x = torch.from_numpy(resize_image(image, (32, 32)).astype(np.float32) / 255)
    x = ((x - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)).permute(2, 0, 1)[None]
    logits = []
    for i in chosen:
        network = UNet(Architecture(**run.architecture)).eval()
        network.load_state_dict(load_file(folder / run.levels[i].weights))
        with torch.no_grad():
            logits.append(network(x))
    mean = sum(logits) / len(logits)
    return F.interpolate(mean, image.shape[:2], mode="bilinear")[0, 0].sigmoid().numpy()


def test_every_subset_of_three_levels_against_a_slow_oracle(three_levels: Path, phantoms: Path, tmp_path: Path) -> None:
    evaluation = evaluate(three_levels, phantoms, "val", tmp_path)
    subsets = {
        "level 1": (0,),
        "level 2": (1,),
        "level 3": (2,),
        "levels 1+2": (0, 1),
        "levels 1+3": (0, 2),
        "levels 2+3": (1, 2),
        "ensemble": (0, 1, 2),
    }
    assert evaluation.members() == tuple(subsets)
    dataset = Dataset.open(phantoms)
    for member, chosen in subsets.items():
        stems = [score.image for score in evaluation.scores if score.member == member]
        p = {stem: probabilities_by_hand(three_levels, dataset, stem, chosen) for stem in stems}
        t = {stem: dataset.mask(stem) > 0 for stem in stems}
        both = {stem: np.logical_and(p[stem] > 0.5, t[stem]).sum() for stem in stems}
        ious = [both[stem] / np.logical_or(p[stem] > 0.5, t[stem]).sum() for stem in stems]
        np.testing.assert_allclose(evaluation.values(member, "iou"), ious, atol=5e-3)
        np.testing.assert_allclose(evaluation.values(member, "dice"), [2 * i / (1 + i) for i in ious], atol=5e-3)
        all_p, all_t = np.stack(list(p.values())).ravel(), np.stack(list(t.values())).ravel()
        assert evaluation.reliability[member].error() == pytest.approx(slow_calibration_error(all_p, all_t), abs=2e-3)
    assert len({round(row["dice"], 6) for row in evaluation.summary()}) > 3  # type: ignore[call-overload]
    with (tmp_path / "calibration.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["member"] == "ensemble"]
    assert len(rows) == 15
    assert sum(int(row["pixels"]) for row in rows) == 48 * 48 * len(stems)
    assert cv2.imread(str(tmp_path / "calibration.png")) is not None


def slow_calibration_error(p: np.ndarray, t: np.ndarray, bins: int = 15) -> float:
    total = 0.0
    for i in range(bins):
        inside = (p >= i / bins) & ((p < (i + 1) / bins) | (i == bins - 1))
        if inside.any():
            total += inside.mean() * abs(p[inside].mean() - t[inside].mean())
    return total


@given(st.integers(0, 1000))
def test_calibration_error_against_a_loop_over_bins(seed: int) -> None:
    generator = np.random.default_rng(seed)
    p, t = generator.random((2, 9, 11)), generator.random((2, 9, 11)) < 0.3
    p[0, 0, :2] = 0, 1
    table = Reliability.of(p[0], t[0]) + Reliability.of(p[1], t[1])
    assert table.error() == pytest.approx(slow_calibration_error(p.ravel(), t.ravel()))
    perfect = Reliability.of(t[0].astype(np.float32), t[0])
    assert perfect.error() == 0
    assert np.isnan(perfect.rows()[7]["probability"])


def test_the_artifact_scores_as_the_ensemble_does(tiny_run: Path, tiny_artifact: Path, phantoms: Path) -> None:
    run, artifact = (evaluate(folder, phantoms, "val") for folder in (tiny_run, tiny_artifact))
    np.testing.assert_allclose(artifact.values("artifact", "dice"), run.values("ensemble", "dice"), atol=1e-3)


def test_what_cannot_be_scored_is_an_error(tiny_run: Path, phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no split 'test'"):
        evaluate(tiny_run, phantoms, "test")
    with pytest.raises(ContractError, match="neither a run"):
        evaluate(tmp_path, phantoms, "val")
    (tmp_path / "images").symlink_to(phantoms / "images")
    with pytest.raises(DatasetError, match="no truth to score by"):
        evaluate(tiny_run, tmp_path, "val")


def test_an_artifact_names_no_image_and_still_knows_its_split(
    tiny_artifact: Path, phantoms: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = (tiny_artifact / "manifest.json").read_text()
    assert not [stem for stem in Dataset.open(phantoms).images if stem in manifest]
    with caplog.at_level("WARNING", logger="gazeseg_serve"):
        evaluate(tiny_artifact, phantoms, "val")
        assert "not the one recorded" not in caplog.text
        for kind in ("images", "masks"):  # the same data with one image less draws another split
            shutil.copytree(phantoms / kind, tmp_path / kind)
        (tmp_path / "images" / "phantom_0000.png").unlink()
        evaluate(tiny_artifact, tmp_path, "val")
    assert "not the one recorded" in caplog.text


def test_several_classes_have_a_dice_each() -> None:
    scores = (Score("a", "ensemble", 0.5, 0.4, 1.0, (0.2, 0.8)), Score("b", "ensemble", 0.7, 0.6, 1.0, (0.6, 0.8)))
    evaluation = Evaluation("val", scores, {"ensemble": Reliability.of(np.zeros(2), np.zeros(2))}, ("cavity", "wall"))
    (row,) = evaluation.summary()
    assert (row["dice_of_cavity"], row["dice_of_wall"]) == pytest.approx((0.4, 0.8))
    assert evaluation.table()[0]["dice_of_wall"] == 0.8
    one = dataclasses.replace(evaluation, classes=("lesion",))
    assert not any(str(name).startswith("dice_of") for name in {**one.summary()[0], **one.table()[0]})


def test_negatives_are_counted_where_anything_is_marked_and_not_scored(
    lively_run: Path, lively_artifact: Path, phantoms: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    stems = Run.load(lively_run).splits["val"]
    empty = stems[0]
    (data / "negatives.txt").write_text(empty)
    (data / "masks" / f"{empty}.png").unlink()  # a negative needs no mask
    rows = {row["member"]: row for row in evaluate(lively_run, data, "val", tmp_path / "out").summary()}
    predicted = {name: one.mask() for name, one in run_members(lively_run)(Dataset.open(data).image(empty)).items()}
    for member, row in rows.items():
        assert (row["images"], row["negatives"]) == (len(stems) - 1, 1)
        assert row["false_alarms"] == float(predicted[member].any())
    with (tmp_path / "out" / "scores.csv").open() as file:
        assert empty not in {row["image"] for row in csv.DictReader(file)}
    assert "false_alarms" in (tmp_path / "out" / "summary.csv").read_text()
    assert "false_alarms" not in evaluate(lively_run, phantoms, "val").summary()[0]

    # The artifact's own presence holds here, too: under it nothing is marked.
    wary = tmp_path / "wary"
    shutil.copytree(lively_artifact, wary)
    rule = Presence(0.001, 1.0, -1e3, 0.5, 0.1, 0.0, 9, 9)
    dataclasses.replace(Artifact.load(wary), presence=rule).save(wary)
    assert evaluate(wary, data, "val").summary()[0]["false_alarms"] == 0.0
