from __future__ import annotations

import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_edt

from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ContractError, DatasetError
from gazeseg_serve.training.evaluate import evaluate, hd95


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


def test_an_artifact_names_no_image_and_still_knows_its_split(tiny_artifact: Path, phantoms: Path, tmp_path: Path,
                                                              caplog: pytest.LogCaptureFixture) -> None:
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
