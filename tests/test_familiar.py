"""What the learning images looked like, and what is called unusual beside them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gazeseg_serve.bulk import segment_file
from gazeseg_serve.card import model_card
from gazeseg_serve.contract import MANIFEST_FILE, Artifact
from gazeseg_serve.errors import ContractError
from gazeseg_serve.familiar import MARGIN, Familiar, figures, learn
from gazeseg_serve.imaging import read_image
from gazeseg_serve.outputs import describe
from gazeseg_serve.predictor import Predictor

RNG = np.random.default_rng(5)


def photo(seed: int, low: int = 60, high: int = 200) -> np.ndarray:
    """A smooth reddish picture."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(low, high, (6, 6, 3)).astype(np.uint8)
    coarse[..., 1:] //= 2
    return cv2.resize(coarse, (48, 48), interpolation=cv2.INTER_CUBIC)


PHOTOS = np.stack([photo(seed) for seed in range(60)])


def test_the_figures_are_what_they_are_called() -> None:
    image = photo(99)
    found = figures(image)
    grey = image.astype(float) @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert found["brightness"] == pytest.approx(grey.mean(), abs=0.5)
    assert found["contrast"] == pytest.approx(grey.std(), abs=0.5)
    assert found["red"] == pytest.approx((image[..., 0].astype(float) - image[..., 1]).mean())
    r, g, b = np.moveaxis(image.astype(float), 2, 0)
    assert found["colour"] == pytest.approx(np.log(1 + (abs(r - g) + abs(b - g)).mean()))
    assert found["blue"] == pytest.approx((image[..., 2].astype(float) - image[..., 1]).mean())


def test_detail_is_of_the_second_differences_and_knows_no_scale() -> None:
    image = RNG.normal(size=(20, 30, 1)).astype(np.float32)
    padded = np.pad(image[..., 0].astype(float), 1, mode="reflect")
    bends = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * padded[1:-1, 1:-1]
    assert figures(image)["detail"] == pytest.approx(np.log(np.abs(bends).mean() / image.std()), rel=1e-3)
    assert figures(image * 700 + 90)["detail"] == pytest.approx(figures(image)["detail"], rel=1e-3)
    assert set(figures(image)) == {"detail"}, "brightness says nothing where any scale may come"
    assert set(figures(photo(1)[..., :1])) == {"detail", "brightness", "contrast"}


def test_the_range_leaves_out_one_in_two_hundred_at_either_end() -> None:
    found = learn(PHOTOS)
    for name in ("brightness", "contrast", "red", "blue", "colour", "detail"):
        values = sorted(figures(image)[name] for image in PHOTOS)
        assert found.low[name] == pytest.approx(values[0] + 0.005 * 59 * (values[1] - values[0]))
        assert found.high[name] == pytest.approx(values[-1] - 0.005 * 59 * (values[-1] - values[-2]))
    assert found.images == 60


@given(st.floats(-3, 3))
def test_what_lies_further_out_than_the_margin_is_unusual(place: float) -> None:
    """`place` in ranges of brightness from the middle of the range."""
    image = np.full((8, 8, 1), 128, np.uint8)
    value = figures(image)["brightness"]
    width = 10.0
    low = value - place * width - width / 2
    rule = Familiar({"brightness": low}, {"brightness": low + width}, 7)
    outside = max(abs(place) - 0.5, 0.0)
    distances = rule.distances(image)
    assert distances["brightness"] == pytest.approx(np.sign(place) * outside, abs=1e-9)
    if abs(outside - MARGIN) > 1e-6:
        wanted = () if outside < MARGIN else (("darker", "brighter")[place > 0] + " than the 7 images",)
        assert tuple(reason[: len(word)] for reason, word in zip(rule.reasons(distances), wanted, strict=True)) == wanted


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x: (x * 0.2).astype(np.uint8), "darker"),
        (lambda x: x // 2 + 127, "brighter"),
        (lambda x: (x * 0.1 + 80).astype(np.uint8), "of less contrast"),
        (lambda x: x[..., ::-1], "bluer"),
        (lambda x: np.repeat(x[..., :1], 3, 2), "less red"),
        (lambda x: np.repeat(x[..., :1], 3, 2), "less colourful"),
        (lambda x: RNG.integers(0, 256, x.shape, dtype=np.uint8), "more detailed"),
        (np.zeros_like, "more blurred"),
    ],
)
def test_other_inputs_are_named_by_what_differs(change: object, word: str) -> None:
    rule = learn(PHOTOS)
    reasons = rule.reasons(rule.distances(change(photo(77))))  # type: ignore[operator]
    assert any(reason.startswith(word) for reason in reasons), reasons


def test_blur_is_seen_where_the_learning_images_are_sharp() -> None:
    sharp = PHOTOS // 2 + RNG.integers(0, 40, PHOTOS.shape, dtype=np.uint8)
    rule = learn(sharp)
    assert rule.reasons(rule.distances(sharp[0])) == ()
    reasons = rule.reasons(rule.distances(cv2.GaussianBlur(sharp[0], (0, 0), 3)))
    assert reasons[0].startswith("more blurred")


def test_an_image_of_the_same_kind_is_not_unusual_nor_is_one_upside_down() -> None:
    rule = learn(PHOTOS)
    said = [[bool(rule.reasons(rule.distances(x))) for x in (photo(seed), photo(seed)[::-1])] for seed in range(100, 150)]
    assert [one for one, _ in said] == [other for _, other in said], "no figure knows up from down"
    assert sum(one for one, _ in said) <= 5


@pytest.mark.parametrize(
    ("low", "high"),
    [({"detail": 1.0}, {"detail": 0.0}), ({"detail": 0.0}, {}), ({}, {"detail": 0.0}), ({"smell": 0.0}, {"smell": 1.0})],
)
def test_ranges_that_are_none_are_refused(low: dict[str, float], high: dict[str, float]) -> None:
    with pytest.raises(ContractError, match="familiar"):
        Familiar(low, high, 3)
    with pytest.raises(ContractError, match="export the run again"):
        Familiar({"detail": float("nan")}, {"detail": 1.0}, 3)


def test_an_export_keeps_the_range_of_the_images_that_taught(tiny_artifact: Path, tiny_run: Path, phantoms: Path) -> None:
    artifact = Artifact.load(tiny_artifact)
    train = json.loads((tiny_run / "run.json").read_text())["splits"]["train"]
    predictor = Predictor.open(tiny_artifact)
    images = [predictor.prepare(read_image(phantoms / "images" / f"{stem}.png", artifact.input.channels)) for stem in train]
    assert artifact.familiar == learn(np.stack(images))
    assert artifact.familiar.images == len(train)
    assert any(line.startswith("familiar     detail") for line in model_card(tiny_artifact)[0])


def test_a_prediction_says_why_and_an_artifact_without_the_range_says_nothing(tiny_artifact: Path, phantoms: Path) -> None:
    predictor = Predictor.open(tiny_artifact)
    artifact = predictor.artifact
    assert artifact is not None
    stem = next(iter((phantoms / "images").iterdir()))
    usual = predictor.predict(read_image(stem, artifact.input.channels))
    odd = predictor.predict(np.full((40, 40, artifact.input.channels), 255, np.uint8))
    assert usual.unusual == ()
    assert odd.unusual
    answer = describe(odd, artifact, 0.5)
    assert answer["unusual"] is True
    assert answer["unusual_because"] == list(odd.unusual)
    assert describe(usual, artifact, 0.5)["unusual"] is False
    silent = dataclasses.replace(usual, unusual=None)
    assert describe(silent, artifact, 0.5)["unusual"] is None
    assert describe(silent, artifact, 0.5)["unusual_because"] == []


def test_a_manifest_from_before_it_is_read(tiny_artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    for file in tiny_artifact.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    del manifest["familiar"]
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    assert Artifact.load(folder).familiar is None
    assert Predictor.open(folder).predict(np.zeros((9, 9, 3), np.uint8)).unusual is None


def test_predict_warns_of_what_is_unusual(tiny_artifact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cv2.imwrite(str(tmp_path / "screen.png"), np.full((40, 40, 3), 255, np.uint8))
    segment_file(Predictor.open(tiny_artifact), tmp_path / "screen.png", tmp_path / "mask.png")
    assert [r.getMessage().split(":")[0] for r in caplog.records if r.levelname == "WARNING"] == ["screen.png is unusual"]


def test_the_service_says_it_and_counts_how_far(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    from serving import PIXELS, encoded, serve, wait_until_ready

    from gazeseg_serve.service.settings import Settings

    known = tmp_path / "known"
    shutil.copytree(folder, known)
    artifact = Artifact.load(known)
    prepared = Predictor.open(known).prepare(PIXELS)
    dataclasses.replace(artifact, familiar=learn(prepared[None])).save(known)
    with serve(Settings(artifact=known)) as client:
        wait_until_ready(client)
        answers = [
            client.post("/v1/segment", params={"output": "json"}, files={"image": encoded(pixels=pixels)}).json()
            for pixels in (PIXELS, PIXELS // 3)
        ]
        counts = client.get("/metrics").text
    assert [answer["unusual"] for answer in answers] == [False, True]
    assert answers[0]["unusual_because"] == []
    assert any(reason.startswith("darker") for reason in answers[1]["unusual_because"])
    assert 'gazeseg_input_distance_bucket{le="0.25",model="default"} 1.0' in counts
    assert 'gazeseg_input_distance_count{model="default"} 2.0' in counts, "what the warm-up sends is not counted"
