"""The demo's clip: every frame with its true mask, and scores that are those of the frames written."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("onnx")
from artifacts import write_artifact

from gazeseg_serve.export.demo_clip import make_clip
from gazeseg_serve.metrics import dice, flicker
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.training.gaze.phantom_clip import phantom_clip
from gazeseg_serve.video.frames import read_video


def test_the_clip_its_true_masks_and_its_scores(tmp_path: Path) -> None:
    write_artifact(tmp_path / "artifact", size=32)
    score = make_clip(tmp_path / "clip", tmp_path / "artifact", seconds=2.0)
    frames = list(read_video(tmp_path / "clip" / "clip.mp4"))
    files = sorted((tmp_path / "clip" / "true_masks").iterdir())
    assert len(frames) == len(files) == score.frames == 50
    np.testing.assert_allclose([frame.seconds for frame in frames], np.arange(50) / 25, atol=1e-6)
    truths = [cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) > 0 for file in files]
    clip = list(phantom_clip(64, 50, np.random.default_rng(1)))
    predictor = Predictor.open(tmp_path / "artifact", "cpu")
    masks = [predictor.predict(image).mask() for image, _ in clip]
    for frame, truth, (image, mask) in zip(frames, truths, clip, strict=True):
        np.testing.assert_array_equal(truth, mask > 0)
        assert np.abs(frame.pixels.astype(int) - image).mean() < 6, "the film shows it"
    shown = [i for i, truth in enumerate(truths) if truth.any()]
    assert score.shown == len(shown)
    assert score.dice == pytest.approx(np.mean([dice(masks[i], truths[i]) for i in shown]))
    assert score.flicker == pytest.approx(flicker(masks))
    assert score.flicker_true == pytest.approx(flicker(truths))
    assert score.flicker_steady != score.flicker
