"""Every output against what an independent reader makes of it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from artifacts import write_artifact
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco

from gazeseg_serve import outputs
from gazeseg_serve.bulk import segment_file
from gazeseg_serve.contract import Artifact
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.png import encode_png
from gazeseg_serve.predictor import Prediction, Predictor

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_artifact(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_artifact(tmp_path_factory.mktemp("several"), classes=("zone", "core"), disagreement=False)


@pytest.fixture
def prediction() -> Prediction:
    """A bright disc in a 48 x 80 image, with a disagreement that grows to the right."""
    y, x = np.mgrid[:32, :32]
    probability = np.where((y - 16) ** 2 + (x - 16) ** 2 < 64, 0.9, 0.1).astype(np.float32)
    return Prediction(probability[None], (x / 64).astype(np.float32), (48, 80))


def test_png_is_one_bit_and_holds_the_mask(prediction: Prediction, artifact: Artifact) -> None:
    rendered = outputs.render(prediction, artifact, "png", 0.5)
    picture = Image.open(io.BytesIO(rendered.content))
    assert (picture.mode, picture.size, rendered.media_type) == ("1", (80, 48), "image/png")
    np.testing.assert_array_equal(np.asarray(picture), prediction.mask(0.5).astype(bool))


@given(mask=MASKS)
def test_a_bilevel_png_is_read_back_by_two_readers(mask: np.ndarray) -> None:
    data = encode_png(mask, bilevel=True)
    picture = Image.open(io.BytesIO(data))
    assert (picture.mode, picture.size) == ("1", mask.shape[::-1])
    np.testing.assert_array_equal(np.asarray(picture), mask)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), mask * np.uint8(255))


def test_png_of_several_classes_is_a_palette_of_labels(several: Artifact) -> None:
    scores = np.zeros((3, 32, 32), np.float32)
    scores[0], scores[1, :16], scores[2, 16:] = 0.2, 0.8, 0.8
    prediction = Prediction(scores, None, (32, 32))
    picture = Image.open(io.BytesIO(outputs.render(prediction, several, "png", 0.5).content))
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture), prediction.mask())
    assert set(np.unique(np.asarray(picture))) == {1, 2}
    np.testing.assert_array_equal(np.asarray(picture.convert("RGB"))[0, 0], several.colours[0])


def test_an_empty_mask_of_several_classes_is_still_a_palette(several: Artifact) -> None:
    content = outputs.mask_png(np.zeros((4, 4), np.uint8), several.colours)
    assert Image.open(io.BytesIO(content)).mode == "P"


# pycocotools' decoder, not ours: it has not followed numpy 2's __array__ yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@given(mask=MASKS)
def test_run_lengths_come_back_as_the_same_mask(mask: np.ndarray) -> None:
    encoded = outputs.run_lengths(mask)
    json.dumps(encoded)
    np.testing.assert_array_equal(coco.decode({"size": encoded["size"], "counts": encoded["counts"].encode()}), mask)


@given(mask=MASKS)
def test_the_box_is_the_smallest_that_holds_the_mask(mask: np.ndarray) -> None:
    found = outputs.box(mask)
    if not mask.any():
        assert found is None
        return
    x, y, width, height = found
    inside = np.zeros_like(mask)
    inside[y : y + height, x : x + width] = True
    assert not (mask & ~inside).any()
    assert mask[y].any()
    assert mask[y + height - 1].any()
    assert mask[:, x].any()
    assert mask[:, x + width - 1].any()


@settings(deadline=None)
@given(mask=MASKS)
def test_filled_polygons_cover_the_mask_and_nothing_but_its_holes(mask: np.ndarray) -> None:
    drawn = np.zeros(mask.shape, np.uint8)
    for ring in outputs.polygons(mask):
        assert len(ring) >= 6
        cv2.fillPoly(drawn, [np.round(np.array(ring).reshape(-1, 2) - 0.5).astype(np.int32)], 1)
    assert not (mask & (drawn == 0)).any()
    # What is drawn and not in the mask is enclosed by it: it does not reach the border of a padded image.
    outside = np.pad((~mask).astype(np.uint8), 1, constant_values=1)
    cv2.floodFill(outside, None, (0, 0), 2)
    assert not ((outside[1:-1, 1:-1] == 2) & (drawn == 1)).any()


def test_json_describes_the_mask(prediction: Prediction, artifact: Artifact) -> None:
    answer = json.loads(outputs.render(prediction, artifact, "json", 0.5).content)
    mask = prediction.mask(0.5)
    lesion = answer["classes"][0]
    assert answer["model"] == artifact.id
    assert answer["size"] == [48, 80]
    assert lesion["name"] == "lesion"
    assert lesion["area"] == mask.sum() > 0
    assert lesion["area_share"] == pytest.approx(mask.mean())
    spread = prediction.full_disagreement()
    assert spread is not None
    assert answer["mean_disagreement"] == pytest.approx(spread.mean(), abs=1e-6)
    assert answer["mean_disagreement_in_mask"] == pytest.approx(spread[mask > 0].mean(), abs=1e-6)
    assert "disagreement_png" not in answer


def test_json_carries_the_disagreement_map_when_asked(prediction: Prediction, artifact: Artifact) -> None:
    answer = json.loads(outputs.render(prediction, artifact, "json", 0.5, disagreement=True).content)
    values = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["disagreement_png"])))).astype(float) / 65535
    np.testing.assert_allclose(values, prediction.full_disagreement(), atol=1e-5)


def test_probability_is_sixteen_bit_and_cuts_to_the_mask(prediction: Prediction, artifact: Artifact) -> None:
    content = outputs.render(prediction, artifact, "probability", 0.5).content
    values = np.asarray(Image.open(io.BytesIO(content))).astype(float) / 65535
    np.testing.assert_allclose(values, prediction.full_probability()[0], atol=1e-5)
    for threshold in (0.2, 0.5, 0.8):
        np.testing.assert_array_equal(values >= threshold, prediction.mask(threshold).astype(bool))


def test_overlay_paints_inside_the_mask_alone(prediction: Prediction, artifact: Artifact) -> None:
    image = np.full((48, 80, 3), 100, np.uint8)
    content = outputs.render(prediction, artifact, "overlay", 0.5, image=image).content
    picture = np.asarray(Image.open(io.BytesIO(content)))
    mask = prediction.mask(0.5).astype(bool)
    assert (picture[mask] != 100).any(axis=1).all()
    far = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) == 0
    assert (picture[far] == 100).all()


def test_overlay_shows_the_disagreement_in_red(prediction: Prediction, artifact: Artifact) -> None:
    image = np.zeros((48, 80, 1), np.uint8)
    content = outputs.render(prediction, artifact, "overlay", 0.99, disagreement=True, image=image).content
    red = np.asarray(Image.open(io.BytesIO(content)))[..., 0].astype(int)
    assert (np.diff(red[0]) >= 0).all()
    assert red[0, -1] > red[0, 0] + 100


def test_npz_holds_the_arrays(prediction: Prediction, artifact: Artifact) -> None:
    content = outputs.render(prediction, artifact, "npz", 0.3, disagreement=True).content
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        assert set(stored) == {"mask", "probability", "disagreement"}
        np.testing.assert_array_equal(stored["mask"], prediction.mask(0.3))
        np.testing.assert_array_equal(stored["probability"], prediction.full_probability())


@pytest.mark.parametrize(
    ("output", "disagreement", "needle"),
    [
        ("gif", False, "unknown output"),
        ("probability", False, "npz"),
        ("json", True, "no disagreement"),
    ],
)
def test_what_a_model_cannot_give_is_refused(several: Artifact, output: str, disagreement: bool, needle: str) -> None:
    with pytest.raises(ConfigError, match=needle):
        outputs.check(output, several, disagreement)


def test_a_png_has_no_place_for_the_disagreement(artifact: Artifact) -> None:
    with pytest.raises(ConfigError, match="no place"):
        outputs.check("png", artifact, disagreement=True)


def test_a_mask_file_is_the_masks_answer_and_reads_back_as_labels(tmp_path: Path) -> None:
    """One encoder for `predict` and HTTP: several classes are a palette in both, and a dataset folder reads its labels."""
    folder, source, written = tmp_path / "artifact", tmp_path / "x.png", tmp_path / "data" / "masks" / "x.png"
    write_artifact(folder, classes=("a", "b"))
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[:, :10], pixels[:, 10:20] = (255, 0, 0), (0, 255, 0)
    source.write_bytes(encode_png(pixels))
    predictor = Predictor.open(folder, "cpu")
    segment_file(predictor, source, written)
    assert predictor.artifact is not None
    labels = predictor.predict(pixels).mask(0.5)
    assert set(np.unique(labels)) == {0, 1, 2}
    answer = outputs.render(predictor.predict(pixels), predictor.artifact, "png", 0.5).content
    for content in (written.read_bytes(), answer):
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.mode == "P"
            assert picture.getpalette()[3:9] == [channel for colour in predictor.artifact.colours for channel in colour]
            np.testing.assert_array_equal(np.asarray(picture), labels)
    (tmp_path / "data" / "images").mkdir()
    (tmp_path / "data" / "images" / "x.png").write_bytes(source.read_bytes())
    np.testing.assert_array_equal(Dataset.open(tmp_path / "data").mask("x", 2), labels)
