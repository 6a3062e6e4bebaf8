"""Scores by hand: several classes, other sizes, the order of the worst, calibration and the intervals of the means."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_relabel_classes import CLASSES, STEMS, dataset, mean_logits, softmax, write_run

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import DatasetError
from gazeseg_serve.metrics import bootstrap_interval
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.scoring import evaluate as room
from gazeseg_serve.training.scoring.calibration import Reliability
from gazeseg_serve.training.scoring.evaluate import Evaluation, Score, evaluate, worst_cases
from gazeseg_serve.training.scoring.surface_distance import hd95

__all__ = ["dataset"]  # the fixture


def probabilities(run: Path, image: np.ndarray, members: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """`(K, H, W)` at the image's size: the mean logit of the chosen levels, resized, in a softmax."""
    import torch

    from gazeseg_serve.training.networks.ensemble import load_ensemble

    _, ensemble = load_ensemble(run)
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    x = torch.from_numpy(small).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        logits = ensemble(ensemble.normalise(x))[list(members), 0].mean(0).numpy()
    return softmax(np.stack([cv2.resize(one, image.shape[1::-1], interpolation=cv2.INTER_LINEAR) for one in logits]))


def test_a_run_of_several_classes_is_scored_by_class_and_calibrated_on_any_foreground(dataset: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", InputSpec(32, classes=CLASSES), {"train": STEMS[:1], "val": STEMS[1:]})
    found = evaluate(run, dataset, "val", tmp_path / "out")
    data = Dataset.open(dataset)
    assert found.members() == ("level 1", "level 2", "ensemble")
    for member, chosen in (("level 1", (0,)), ("level 2", (1,)), ("ensemble", (0, 1))):
        tables = []
        for stem in STEMS[1:]:
            p, truth = probabilities(run, data.image(stem), chosen), data.mask(stem, 2)
            labels = p.argmax(0)
            pairs = [((labels == c) & (truth == c)).sum() for c in (1, 2)]
            sizes = [(labels == c).sum() + (truth == c).sum() for c in (1, 2)]
            dice = [2 * both / size for both, size in zip(pairs, sizes, strict=True)]
            iou = [both / (size - both) for both, size in zip(pairs, sizes, strict=True)]
            (score,) = [s for s in found.scores if (s.image, s.member) == (stem, member)]
            np.testing.assert_allclose(score.by_class, dice, atol=4e-3)
            assert score.dice == pytest.approx(np.mean(dice), abs=4e-3)
            assert score.iou == pytest.approx(np.mean(iou), abs=4e-3)
            tables.append(Reliability.of(1 - p[0], truth > 0))
        total = tables[0] + tables[1] + tables[2]
        assert found.reliability[member].error() == pytest.approx(total.error(), abs=2e-3)
        np.testing.assert_allclose(found.reliability[member].pixels, total.pixels, atol=6)
    (row,) = [row for row in found.summary() if row["member"] == "ensemble"]
    assert row[f"dice_of_{CLASSES[1]}"] == pytest.approx(found.values("ensemble", "by_class")[:, 1].mean())
    assert row["images"] == 3


def test_the_mean_logits_of_the_helpers_agree(dataset: Path, tmp_path: Path) -> None:
    """An image that is its own mirror both ways: four flips are one look."""
    run = write_run(tmp_path / "run", InputSpec(32, classes=CLASSES), {"train": STEMS, "val": ()})
    flat = np.full((32, 32, 3), 130, np.uint8)
    logits = mean_logits(run, flat)
    np.testing.assert_allclose(logits, logits[:, ::-1, ::-1], atol=1e-4)


def test_a_mask_of_another_size_than_its_image_is_named(dataset: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(dataset, tmp_path / "data")
    (tmp_path / "data" / "masks" / f"{STEMS[2]}.png").write_bytes(encode_png(np.zeros((48, 40), np.uint8)))
    run = write_run(tmp_path / "run", InputSpec(32, classes=CLASSES), {"train": STEMS[:1], "val": STEMS[1:]})
    with pytest.raises(DatasetError, match=rf"{STEMS[2]}\.png is 40 x 48 pixels, its image 48 x 40"):
        evaluate(run, tmp_path / "data", "val")


def test_the_worst_are_shown_first_and_so_many_of_them(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Dataset.open(dataset)
    dice = dict(zip(STEMS, (0.7, 0.2, 0.9, 0.4), strict=True))
    scores = tuple(
        Score(stem, member, value if member == "ensemble" else 1 - value, 0.5, 1.0, (value,))
        for stem, value in dice.items()
        for member in ("level 1", "ensemble")
    )
    found = Evaluation("val", scores, {}, ("a",))
    drawn: list[str] = []
    right = Dataset.image

    def noted(self: Dataset, stem: str, *rest: object, **named: object) -> np.ndarray:
        drawn.append(stem)
        return right(self, stem, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Dataset, "image", noted)
    masks = {stem: np.zeros((40, 48), np.uint8) for stem in STEMS}
    sheet = worst_cases(found, data, masks, InputSpec(32, classes=CLASSES), 3)
    assert drawn == [STEMS[1], STEMS[3], STEMS[0]]
    assert sheet.shape == (222, 3 * 222, 3)
    many = Evaluation("val", scores * 4, {}, ("a",))
    assert worst_cases(many, data, masks, InputSpec(32, classes=CLASSES), 8).shape == (2 * 222, 6 * 222, 3)


def test_the_summary_by_hand() -> None:
    dice, hd = [0.2, 0.6, 1.0], [3.0, float("nan"), 5.0]
    scores = tuple(Score(str(i), "ensemble", d, d / 2, h, (d,)) for i, (d, h) in enumerate(zip(dice, hd, strict=True)))
    table = Reliability.of(np.array([0.9, 0.1]), np.array([1, 1]))
    (row,) = Evaluation("val", scores, {"ensemble": table}, ("a",)).summary()
    assert (row["images"], row["dice"], row["iou"]) == (3, pytest.approx(0.6), pytest.approx(0.3))
    assert (row["dice_low"], row["dice_high"]) == bootstrap_interval(np.array(dice))
    assert (row["hd95"], row["hd95_undefined"]) == (4.0, 1)
    assert row["calibration_error"] == pytest.approx((0.1 + 0.9) / 2)
    (empty,) = Evaluation("val", scores[1:2], {"ensemble": table}, ("a",)).summary()
    assert np.isnan(empty["hd95"])
    assert empty["hd95_undefined"] == 1


def test_the_files_say_what_the_evaluation_says(dataset: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", InputSpec(32, classes=CLASSES), {"train": STEMS[:2], "val": STEMS[2:]}, levels=3)
    found = evaluate(run, dataset, "val", tmp_path / "out", pictures=1)

    def rows(name: str) -> list[dict[str, str]]:
        with (tmp_path / "out" / name).open() as file:
            return list(csv.DictReader(file))

    assert [row["member"] for row in rows("summary.csv")] == list(found.members())
    assert len(rows("scores.csv")) == 2 * 7
    bins = rows("calibration.csv")
    assert len(bins) == 7 * 15
    assert [float(row["from"]) for row in bins[:15]] == pytest.approx(list(np.arange(15) / 15))
    assert [float(row["to"]) for row in bins[:15]] == pytest.approx(list(np.arange(1, 16) / 15))
    assert cv2.imread(str(tmp_path / "out" / "worst.png")).shape == (222, 222, 3)


def test_a_probability_of_one_is_in_the_last_bin_and_an_edge_in_the_upper() -> None:
    table = Reliability.of(np.array([0.0, 1 / 15, 1.0, 14 / 15]), np.array([0, 0, 1, 0.5]))
    assert table.pixels[[0, 1, 14]].tolist() == [1, 1, 2]
    rows = table.rows()
    assert (rows[14]["probability"], rows[14]["foreground"]) == (pytest.approx((1 + 14 / 15) / 2), 0.75)
    assert np.isnan(rows[5]["foreground"])


def test_the_distance_of_the_rims_is_in_the_image_s_own_pixels() -> None:
    a, b = np.zeros((1024, 600), bool), np.zeros((1024, 600), bool)
    a[200:600, 100:300], b[200:600, 140:340] = True, True
    assert hd95(a, b) == pytest.approx(40, abs=4)
    small = a[:200, :250].copy(), a[:200, :250].copy()
    small[0][50:90, 50:90] = small[1][57:97, 50:90] = True
    assert hd95(*small) == pytest.approx(7)


def test_a_split_of_its_own_comes_before_the_folder_s(dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = Dataset.open(dataset)
    run = write_run(tmp_path / "run", InputSpec(32, classes=CLASSES), {"train": STEMS[:1], "val": STEMS[1:]})
    opened = room._open(run)
    assert room._stems(data, opened, "val")[0] == STEMS[1:]
    strange = write_run(tmp_path / "strange", InputSpec(32, classes=CLASSES), {"train": ("x",), "val": ("y", "z")})
    with caplog.at_level("WARNING", logger="gazeseg_serve"):
        assert room._stems(data, room._open(strange), "val")[0] == data.splits()["val"]
    assert "not the one recorded" in caplog.text
    caplog.clear()
    part = write_run(tmp_path / "part", InputSpec(32, classes=CLASSES), {"train": (), "val": (*STEMS[2:], "gone")})
    with caplog.at_level("WARNING", logger="gazeseg_serve"):
        assert room._stems(data, room._open(part), "val")[0] == STEMS[2:]
    assert "1 of 3 images" in caplog.text
