"""The whole path on 16-bit MR slices in DICOM, z-scored: one class, as NCI prostate; gaze is simulated."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from dicoms import dicom_file
from tiny import tiny_config

from gazeseg_serve.bulk import predict_files
from gazeseg_serve.contract import Artifact, Run
from gazeseg_serve.export.pipeline import export_run
from gazeseg_serve.imaging import read_image
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.training.evaluate import evaluate
from gazeseg_serve.training.fixations import ScanPath, write_fixations
from gazeseg_serve.training.loop import train
from gazeseg_serve.training.masks_folder import MaskSettings, load_map
from gazeseg_serve.training.pseudo_masks import make_masks
from gazeseg_serve.training.simulate import simulate_gaze


def slices(root: Path, classes: tuple[str, ...]) -> Path:
    """A dataset folder of 10 slices, 40 x 48: a disc in a ring, in 16 bit; with one class both are that class."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    paths, sizes = {}, {}
    for i in range(10):
        generator, (y, x) = np.random.default_rng(i), np.mgrid[:40, :48]
        distance = np.hypot(y - generator.uniform(14, 26), x - generator.uniform(14, 34))
        labels = np.where(distance < 6, 1, np.where(distance < 11, len(classes), 0)).astype(np.uint8)
        pixels = np.array([300, 2400, 1200])[np.where(distance < 6, 1, np.where(distance < 11, 2, 0))]
        stem = f"slice_{i}"
        (root / "images" / f"{stem}.dcm").write_bytes(
            dicom_file(i + 1, (pixels + generator.normal(0, 40, pixels.shape)).astype(np.uint16)))
        cv2.imwrite(str(root / "masks" / f"{stem}.png"), labels)
        scans = [simulate_gaze(labels == c, np.random.default_rng((i, c))) for c in range(1, len(classes) + 1)]
        label = np.concatenate([np.full(len(scan), c) for c, scan in enumerate(scans, start=1)])
        paths[stem] = ScanPath(*(np.concatenate([getattr(scan, name) for scan in scans]) for name in ("x", "y", "duration")),
                               label)
        sizes[stem] = labels.shape
    write_fixations(root / "fixations.csv", paths, sizes, classes)
    return root


@pytest.mark.parametrize("classes", [("prostate",)], ids=["one class"])
def test_gaze_to_the_mask_of_a_dicom_slice(classes: tuple[str, ...], tmp_path: Path) -> None:
    data = slices(tmp_path / "data", classes)
    make_masks(data, tmp_path / "masks", MaskSettings(sigma=50, crf=None, classes=classes), jobs=1)
    assert load_map(tmp_path / "masks", "slice_0", refined=False).shape == ((40, 48) if len(classes) == 1 else (2, 40, 48))
    config = tiny_config("data.channels=1", "data.normalisation=zscore", f"data.classes={list(classes)}",
                         "optimiser.steps=25", "optimiser.batch=8", "augment.rotate=0.0", "evaluate_every=25",
                         "checkpoint_every=25")
    train(config, data, tmp_path / "masks", tmp_path / "run", device="cpu")
    run = Run.load(tmp_path / "run")
    assert run.input.classes == classes
    assert run.input.normalisation == "zscore"

    evaluation = evaluate(tmp_path / "run", data, "val", tmp_path / "scores")
    assert evaluation.members() == ("level 1", "level 2", "ensemble")
    assert evaluation.values("ensemble", "dice").mean() > 0.2  # it learnt where to look; chance is 0.1
    export_run(tmp_path / "run", tmp_path / "artifact", data=data)
    artifact = Artifact.load(tmp_path / "artifact")
    assert artifact.input == run.input
    assert artifact.parity["max_difference"] < 1e-3
    graph = evaluate(tmp_path / "artifact", data, "val")
    np.testing.assert_allclose(graph.values("artifact", "dice"), evaluation.values("ensemble", "dice"), atol=1e-3)

    stem = run.splits["val"][0]
    summary = predict_files(tmp_path / "artifact", [data / "images" / f"{stem}.dcm"], tmp_path / "predicted", None, "cpu")
    assert (summary.written, summary.failures) == (1, {})
    mask = cv2.imread(str(tmp_path / "predicted" / f"{stem}.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (40, 48)
    wanted = Predictor.open(tmp_path / "artifact", "cpu").predict(read_image(data / "images" / f"{stem}.dcm", 1)).mask()
    assert mask.any()
    np.testing.assert_array_equal(mask > 0, wanted > 0)
