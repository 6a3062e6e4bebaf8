from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from artifacts import write_artifact

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.engines.base import FakeEngine, Outputs
from gazeseg_serve.errors import ConfigError, ContractError, EngineError, ImageError
from gazeseg_serve.predictor import Prediction, Predictor
from gazeseg_serve.presence import Presence

RNG = np.random.default_rng(0)


def test_the_mask_has_the_image_s_own_size() -> None:
    predictor = Predictor(FakeEngine(), InputSpec(32))
    image = np.zeros((47, 90, 3), np.uint8)
    image[:, 45:] = 255
    prediction = predictor.predict(image)
    mask = prediction.mask()
    assert mask.shape == (47, 90)
    assert not mask[:, :40].any()
    assert mask[:, 50:].all()
    assert prediction.full_probability().shape == (1, 47, 90)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_mask_is_the_probability_cut(threshold: float) -> None:
    prediction = Prediction(RNG.random((1, 8, 8), np.float32), None, (20, 30))
    probability = prediction.full_probability()[0]
    clear = np.abs(probability - threshold) > 1e-4
    np.testing.assert_array_equal(prediction.mask(threshold)[clear], (probability >= threshold)[clear])
    assert prediction.mask(0.0).all()
    assert not prediction.mask(1.0).any()


def test_logits_are_resized_not_probabilities() -> None:
    # Between a sure 1 and a mild 0 the logit crosses 0 nearer to the mild one.
    p = np.array([[[0.999, 0.4]]], np.float32)
    mask = Prediction(p, None, (1, 100)).mask()
    logit = np.log(p / (1 - p))[0, 0]
    crossing = 25 + 50 * logit[0] / (logit[0] - logit[1])
    assert abs(mask.sum() - crossing) <= 1


def test_several_classes_take_the_likeliest() -> None:
    p = np.array([0.2, 0.7, 0.1], np.float32)[:, None, None] * np.ones((3, 4, 4), np.float32)
    prediction = Prediction(p, None, (6, 6))
    assert (prediction.mask() == 1).all()
    np.testing.assert_allclose(prediction.full_probability().sum(axis=0), 1, rtol=1e-5)


def test_a_batch_gives_each_image_its_own_answer() -> None:
    engine = FakeEngine()
    predictor = Predictor(engine, InputSpec(16))
    images = [np.full((10 + i, 12, 3), 40 * i, np.uint8) for i in range(5)]
    for i, prediction in enumerate(predictor.predict_batch(images)):
        assert prediction.size == (10 + i, 12)
        np.testing.assert_allclose(prediction.probability, 40 * i / 255, rtol=1e-5)
    assert engine.batch_sizes == [5]


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 1), np.uint8)])
def test_an_array_of_another_layout_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"\(H, W, 3\) uint8"):
        Predictor(FakeEngine(), InputSpec(16)).predict(image)


def test_an_artifact_is_opened_and_checked(tmp_path: Path) -> None:
    write_artifact(tmp_path / "a")
    predictor = Predictor.open(tmp_path / "a", device="cpu")
    size = predictor.spec.size
    outputs = predictor.run([np.zeros((size, size, 3), np.uint8)] * 3)
    assert isinstance(outputs, Outputs)
    assert outputs.probability.shape[0] == 3
    with pytest.raises(EngineError, match="unknown device"):
        Predictor.open(tmp_path / "a", device="abacus")
    with pytest.raises(EngineError, match="onnxruntime-gpu"):
        Predictor.open(tmp_path / "a", device="cuda")
    model = tmp_path / "a" / "model.onnx"
    model.write_bytes(model.read_bytes() + b" ")
    with pytest.raises(ContractError, match="sha256"):
        Predictor.open(tmp_path / "a")


# Of the tiny artifact the probability is the brightness, so an even image of 60 % has the log odds of 0.6 everywhere.
RULE = Presence(0.001, 1.0, 0.0, 0.7, 0.1, 0.0, 9, 9)
DIM, BRIGHT = np.full((40, 50, 3), 153, np.uint8), np.full((40, 50, 3), 204, np.uint8)


def test_nothing_is_marked_under_the_artifact_s_presence(tmp_path: Path) -> None:
    write_artifact(tmp_path, presence=RULE)
    predictor = Predictor.open(tmp_path, device="cpu")
    dim, bright = predictor.predict_batch([DIM, BRIGHT])
    assert (dim.presence, bright.presence) == (pytest.approx(0.6, abs=1e-4), pytest.approx(0.8, abs=1e-4))
    assert dim.mask().shape == (40, 50)
    assert not dim.mask(0.0).any()
    assert bright.mask().all()
    assert dim.full_probability().mean() == pytest.approx(0.6, abs=1e-4)  # said as it is, whatever the presence


@pytest.mark.parametrize(("presence", "marked"), [(None, False), (0.0, True), (0.59, True), (0.61, False), (1.0, False)])
def test_a_caller_moves_the_presence_or_switches_it_off(tmp_path: Path, presence: float | None, marked: bool) -> None:
    write_artifact(tmp_path, presence=RULE)
    assert Predictor.open(tmp_path, device="cpu").predict(DIM, presence).mask().any() == marked


def test_what_reaches_the_presence_threshold_is_marked() -> None:
    probability = np.full((1, 4, 4), 0.9, np.float32)
    for threshold, marked in ((0.5, True), (0.5000001, False), (0.0, True)):
        prediction = Prediction(probability, None, (6, 5), presence=0.5, presence_threshold=threshold)
        assert prediction.shows_nothing != marked
        assert prediction.mask().any() == marked
    assert Prediction(probability, None, (6, 5)).mask().all()


def test_an_artifact_that_does_not_say_marks_whatever_the_pixels_say(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    predictor = Predictor.open(tmp_path, device="cpu")
    for presence in (None, 0.0):
        prediction = predictor.predict(DIM, presence)
        assert prediction.presence is None
        assert prediction.mask().all()
    with pytest.raises(ConfigError, match=r"negatives\.txt"):
        predictor.predict(DIM, 0.5)


@pytest.mark.parametrize("presence", [-0.1, 1.1, np.nan])
def test_a_presence_that_is_no_share_is_refused(tmp_path: Path, presence: float) -> None:
    write_artifact(tmp_path, presence=RULE)
    with pytest.raises(ConfigError, match="switches the check off"):
        Predictor.open(tmp_path, device="cpu").predict(DIM, presence)
