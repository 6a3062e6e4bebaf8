"""Resizing, scaling, cutting and painting, each against a second way to do it."""

from __future__ import annotations

import dataclasses
import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from artifacts import write_artifact
from dicoms import dicom_file, enhanced_file
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gazeseg_serve import outputs
from gazeseg_serve.contract import COLOURS, InputSpec
from gazeseg_serve.dataset import Dataset
from gazeseg_serve.engines.base import FakeEngine
from gazeseg_serve.errors import DatasetError, ImageError, ImageTooLarge, MalformedImage, UnsupportedImage
from gazeseg_serve.imaging import decode_image, read_image
from gazeseg_serve.pictures import as_rgb, heat, thumbnail
from gazeseg_serve.pixels import (
    DEFAULT_LIMITS,
    Limits,
    log_odds,
    resize_image,
    resize_labels,
    resize_map,
    unit_range,
    with_channels,
)
from gazeseg_serve.png import encode_png
from gazeseg_serve.predictor import Prediction, Predictor

RNG = np.random.default_rng(5)
SIDES = st.integers(1, 30)


# Sizes


@given(SIDES, SIDES, SIDES, SIDES)
def test_labels_are_taken_at_the_centres_of_the_new_pixels(h: int, w: int, height: int, width: int) -> None:
    labels = np.arange(h * w, dtype=np.int64).reshape(h, w) * 7 % 251
    (rows, above), (columns, beside) = (
        np.divmod((2 * np.arange(new) + 1) * old, 2 * new) for old, new in ((h, height), (w, width))
    )
    found, wanted = resize_labels(labels.astype(np.uint8), (height, width)), labels[rows][:, columns]
    clear = (above > 0)[:, None] & (beside > 0)  # a centre on the line between two pixels belongs to either
    np.testing.assert_array_equal(found[clear], wanted[clear])


def test_an_odd_factor_takes_the_middle_of_each_block() -> None:
    labels = np.arange(81, dtype=np.uint8).reshape(9, 9)
    np.testing.assert_array_equal(resize_labels(labels, (3, 3)), labels[1::3, 1::3])


@pytest.mark.parametrize(
    ("size", "method"),
    [
        ((10, 12), cv2.INTER_AREA),
        ((20, 12), cv2.INTER_AREA),
        ((10, 30), cv2.INTER_AREA),
        ((21, 12), cv2.INTER_LINEAR),
        ((10, 31), cv2.INTER_LINEAR),
        ((40, 60), cv2.INTER_LINEAR),
    ],
)
def test_an_image_that_shrinks_is_averaged_and_another_is_interpolated(size: tuple[int, int], method: int) -> None:
    image = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_image(image, size), cv2.resize(image, size[::-1], interpolation=method))
    grey = image[..., :1]
    assert resize_image(grey, size).shape == (*size, 1)
    assert resize_image(image, (20, 30)) is image


@pytest.mark.parametrize(("cubic", "method"), [(True, cv2.INTER_CUBIC), (False, cv2.INTER_LINEAR)])
def test_a_map_is_resized_as_it_is_asked(cubic: bool, method: int) -> None:
    values = RNG.random((9, 14)).astype(np.float32)
    np.testing.assert_array_equal(resize_map(values, (23, 31), cubic), cv2.resize(values, (31, 23), interpolation=method))
    assert resize_map(values, (9, 14)) is values


# Values


def test_any_scale_and_offset_becomes_the_unit_range() -> None:
    values = np.array([[-5.0, 0.0, 15.0]])
    np.testing.assert_allclose(unit_range(values), [[0, 0.25, 1]])
    assert unit_range(values).dtype == np.float32
    np.testing.assert_array_equal(unit_range(np.full((2, 2), 7)), 0)


def test_colour_is_weighted_to_grey_as_the_eye_does() -> None:
    """ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B."""
    pixels = np.array([[[200, 100, 50]]], np.uint8)
    assert with_channels(pixels, 1)[0, 0, 0] == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    assert with_channels(pixels, 3) is pixels
    np.testing.assert_array_equal(with_channels(pixels[..., :1], 3), [[[200, 200, 200]]])


def test_the_log_odds_of_certainty_are_large_and_finite() -> None:
    odds = log_odds(np.array([[[0.0, 1.0, 0.5]]], np.float32))
    assert np.isfinite(odds).all()
    np.testing.assert_allclose(odds[0, 0], [-16.118, 15.942, 0], atol=0.2)  # log(1e-7); float32 has no 1 - 1e-7 exactly
    several = log_odds(np.array([0.0, 0.25, 0.75], np.float32).reshape(3, 1, 1))
    np.testing.assert_allclose(several.ravel(), np.log([1e-7, 0.25, 0.75]), rtol=1e-4)


# Files


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_limits_are_of_what_is_let_in() -> None:
    assert (DEFAULT_LIMITS.max_bytes, DEFAULT_LIMITS.max_pixels) == (32 * 2**20, 40_000_000)
    data = saved(Image.new("L", (30, 20)))
    assert decode_image(data, limits=Limits(len(data), 600)).shape == (20, 30, 3)
    with pytest.raises(ImageTooLarge, match="30 x 20 pixels"):
        decode_image(data, limits=Limits(len(data), 599))
    with pytest.raises(ImageTooLarge, match=f"{len(data)} bytes"):
        decode_image(data, limits=Limits(len(data) - 1, 600))


def test_a_file_is_measured_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(saved(Image.new("L", (3, 2))))
    size = path.stat().st_size
    assert read_image(path, 1, Limits(size, 6)).shape == (2, 3, 1)
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("read"))
    with pytest.raises(ImageTooLarge, match=r"a\.png"):
        read_image(path, 1, Limits(size - 1, 6))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "LA", "RGBA"])
def test_every_usual_layout_is_read(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    image = Image.fromarray(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)).convert(mode)
    wanted = np.asarray(image.convert("RGB")) if mode not in ("LA", "RGBA") else None
    found = decode_image(saved(image, kind))
    assert (found.shape, found.dtype) == ((6, 5, 3), np.uint8)
    if wanted is not None:
        np.testing.assert_array_equal(found, wanted)


def test_a_transparent_colour_lies_on_black() -> None:
    image = Image.fromarray(np.array([[[10, 20, 30], [200, 0, 0]]], np.uint8))
    found = decode_image(saved(image, transparency=(200, 0, 0)))
    np.testing.assert_array_equal(found, [[[10, 20, 30], [0, 0, 0]]])


def test_sixteen_bits_keep_their_depth_as_floats() -> None:
    values = np.array([[1000, 1001, 3000]], np.uint16)
    found = decode_image(saved(Image.fromarray(values)), 1, dtype="float32")
    np.testing.assert_allclose(found[..., 0], [[0, 1 / 2000, 1]], atol=1e-7)
    assert found.dtype == np.float32


@pytest.mark.parametrize("value", [65535, 65536, -1, -(2**31), 2**31 - 1])
def test_grey_values_of_any_size_keep_their_order(value: int) -> None:
    data = saved(Image.fromarray(np.array([[0, value]], np.int32)), "TIFF")
    for dtype, white in (("uint8", 255), ("float32", 1)):
        assert decode_image(data, 1, dtype=dtype)[0, :, 0].tolist() == ([white, 0] if value < 0 else [0, white])


def test_a_bilevel_file_is_a_png_by_the_letter() -> None:
    """Parsed by hand: signature, one bit of grey, and rows whose filter is none, each chunk under its checksum."""
    mask = RNG.integers(0, 3, (5, 11), dtype=np.uint8)
    data = encode_png(mask, bilevel=True)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (11, 5, 1, 0, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, 3)
    assert not rows[:, 0].any()
    np.testing.assert_array_equal(np.unpackbits(rows[:, 1:], axis=1)[:, :11], mask > 0)
    assert list(chunks)[-1] == b"IEND"


def test_colour_is_written_as_it_is() -> None:
    picture = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encode_png(picture)))), picture)


# The dataset folder


@pytest.mark.parametrize(
    ("suffix", "value", "foreground"),
    [
        (".png", 1, True),
        (".png", 0, False),
        (".png", 40, True),
        (".jpg", 40, False),
        (".jpeg", 40, False),
        (".jpg", 124, False),
        (".jpg", 132, True),
    ],
)
def test_a_jpeg_mask_is_foreground_from_the_middle_on(tmp_path: Path, suffix: str, value: int, foreground: bool) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "images" / "a.png")
    Image.new("L", (16, 16), value).save(tmp_path / "masks" / f"a{suffix}", quality=100)
    mask = Dataset.open(tmp_path).mask("a")
    assert (mask == int(foreground)).all()


def test_labels_above_the_classes_are_refused(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "a.png")
    Image.new("L", (4, 4), 3).save(tmp_path / "masks" / "a.png")
    assert Dataset.open(tmp_path).mask("a", 3).max() == 3
    with pytest.raises(DatasetError, match="label 3, but there are 2 classes"):
        Dataset.open(tmp_path).mask("a", 2)


# Predictions


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_probability_at_the_threshold_is_foreground(p: float, threshold: float) -> None:
    mask = Prediction(np.full((1, 4, 4), p, np.float32), None, (4, 4)).mask(threshold)
    if abs(p - threshold) > 1e-5:
        assert (mask == (p >= threshold)).all()
    even = Prediction(np.full((1, 4, 4), 0.5, np.float32), None, (4, 4))
    assert even.mask(0.5).all()
    assert even.mask().all()


def test_a_softmax_is_resized_as_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = RNG.normal(0, 2, (3, 6, 8)).astype(np.float32)
    p = np.exp(logits) / np.exp(logits).sum(0)
    large = np.stack([cv2.resize(one, (30, 20), interpolation=cv2.INTER_LINEAR) for one in logits])
    wanted = np.exp(large) / np.exp(large).sum(0)
    found = Prediction(p, None, (20, 30))
    np.testing.assert_allclose(found.full_probability(), wanted, atol=1e-3)
    sure = np.sort(wanted, axis=0)
    clear = sure[-1] - sure[-2] > 1e-3
    np.testing.assert_array_equal(found.mask()[clear], wanted.argmax(0)[clear])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_not_finite_are_refused(value: float) -> None:
    predictor = Predictor(FakeEngine(), InputSpec(16, 1, normalisation="zscore"))
    image = np.zeros((5, 5, 1), np.float32)
    predictor.prepare(image)
    image[2, 3] = value
    with pytest.raises(ImageError, match="not finite"):
        predictor.prepare(image)


def test_size_is_height_and_width_everywhere() -> None:
    predictor = Predictor(FakeEngine(), InputSpec(16))
    (prediction,) = predictor.predict_batch([np.zeros((7, 11, 3), np.uint8)])
    assert prediction.size == prediction.mask().shape == (7, 11)
    assert prediction.full_probability().shape == (1, 7, 11)
    spread = Prediction(np.zeros((1, 4, 4), np.float32), np.full((4, 4), 0.25, np.float32), (7, 11)).full_disagreement()
    assert spread is not None
    np.testing.assert_allclose(spread, np.full((7, 11), 0.25))


# Pictures


def test_an_overlay_is_six_parts_image_and_four_parts_colour() -> None:
    image = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    before = image.copy()
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 5:30] = 1
    mask[22:28, 5:30] = 2
    colours = ((255, 0, 100), (0, 200, 50))
    picture = outputs.overlay(image, mask, colours)
    for (rows, columns), colour in (((slice(7, 18), slice(7, 28)), colours[0]), ((slice(24, 26), slice(7, 28)), colours[1])):
        wanted = np.rint(0.6 * image[rows, columns].astype(np.float64) + 0.4 * np.array(colour))
        np.testing.assert_allclose(picture[rows, columns], wanted, atol=1)
    assert (picture[5, 5:30] == colours[0]).all(), "the outline"
    np.testing.assert_array_equal(image, before)
    grey = outputs.overlay(image[..., :1], np.zeros_like(mask), colours)
    np.testing.assert_array_equal(grey, image[..., :1].repeat(3, axis=2))


@pytest.mark.parametrize(("spread", "red"), [(0.0, 100), (0.25, 178), (0.5, 255), (0.7, 255)])
def test_disagreement_is_full_red_at_its_largest(spread: float, red: int) -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    picture = outputs.overlay(image, np.zeros((4, 4), np.uint8), COLOURS, disagreement=np.full((4, 4), spread, np.float32))
    share = min(1.0, 2 * spread)
    np.testing.assert_allclose(picture[0, 0], [red, 100 * (1 - share), 100 * (1 - share)], atol=1)


def test_the_description_of_a_mask_by_hand(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path)
    p = np.full((1, 8, 8), 0.2, np.float32)
    p[0, 2:5, 1:7] = 0.9
    spread = np.full((8, 8), 0.1, np.float32)
    spread[2:5, 1:7] = 0.3
    answer = outputs.describe(Prediction(p, spread, (8, 8)), artifact, 0.5)
    (lesion,) = answer["classes"]
    assert (lesion["area"], lesion["area_share"], lesion["box"]) == (18, 18 / 64, [1, 2, 6, 3])
    assert (lesion["label"], lesion["name"], lesion["colour"]) == (1, "lesion", list(artifact.colours[0]))
    assert answer["mean_disagreement"] == pytest.approx((18 * 0.3 + 46 * 0.1) / 64, abs=1e-6)
    assert answer["mean_disagreement_in_mask"] == pytest.approx(0.3, abs=1e-6)
    empty = outputs.describe(Prediction(p, spread, (8, 8)), artifact, 0.95)
    assert (empty["classes"][0]["box"], empty["mean_disagreement_in_mask"]) == (None, None)
    assert empty["mean_disagreement"] == answer["mean_disagreement"]


def test_pictures_for_people_keep_their_proportions() -> None:
    assert thumbnail(np.zeros((100, 50, 3), np.uint8), 160).shape == (160, 80, 3)
    assert thumbnail(np.zeros((30, 3000, 1), np.uint8), 160).shape == (2, 160, 3)
    np.testing.assert_array_equal(as_rgb(np.array([[0.0, 0.5, 2.0]], np.float32))[0, :, 0], [0, 128, 255])
    shades = heat(np.array([[0.0, 0.25, 0.5, 1.0]]), top=0.5).astype(int).sum(axis=2)[0]
    assert shades[0] < shades[1] < shades[2] == shades[3]


# DICOM


pydicom = pytest.importorskip("pydicom")


def test_pixels_of_all_frames_together_have_a_limit() -> None:
    frames = np.zeros((3, 8, 10), np.uint16)
    data = enhanced_file(frames)
    from gazeseg_serve.dicom import read_dataset

    assert read_dataset(data, Limits(max_pixels=240)).NumberOfFrames == 3
    with pytest.raises(ImageTooLarge, match="239"):
        read_dataset(data, Limits(max_pixels=239))


def ramp(low: float, high: float) -> np.ndarray:
    return np.linspace(low, high, 12).reshape(3, 4).round().astype(np.uint16)


@pytest.mark.parametrize(
    ("attributes", "wanted"),
    [
        ({}, lambda v: v),
        ({"PhotometricInterpretation": "MONOCHROME1"}, lambda v: -v),
        ({"RescaleSlope": 2, "RescaleIntercept": -500}, lambda v: 2.0 * v - 500),
        ({"RescaleSlope": -1, "RescaleIntercept": 0}, lambda v: -v.astype(float)),
        ({"WindowCenter": 2000.5, "WindowWidth": 1001}, lambda v: np.clip(v, 1500, 2500)),
    ],
)
def test_grey_frames_become_bytes_over_their_own_range(attributes: dict[str, object], wanted: object) -> None:
    values = ramp(1000, 3000)
    shown = wanted(values.astype(float))  # type: ignore[operator]
    scaled = np.rint((shown - shown.min()) * 255 / (shown.max() - shown.min()))
    found = decode_image(dicom_file(1, values, **attributes), 1)[..., 0]
    np.testing.assert_allclose(found, scaled, atol=1)


def test_a_flat_frame_is_black() -> None:
    assert not decode_image(dicom_file(1, np.full((3, 4), 700, np.uint16)), 1).any()


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        ({"BitsAllocated": 64}, UnsupportedImage),
        ({"SamplesPerPixel": 2}, UnsupportedImage),
        ({"PhotometricInterpretation": "HSV"}, UnsupportedImage),
        ({"Rows": 0}, MalformedImage),
        ({"Columns": 0}, MalformedImage),
    ],
)
def test_what_no_reader_here_knows_is_refused_by_the_header(attributes: dict[str, object], error: type[ImageError]) -> None:
    with pytest.raises(error):
        decode_image(dicom_file(1, ramp(0, 100), **attributes), 1)


def test_an_empty_slice_has_its_frame_in_the_segmentation(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from gazeseg_serve.dicom import read_dataset
    from gazeseg_serve.dicom_result import ResultOptions
    from gazeseg_serve.dicom_seg import segmentation

    artifact = write_artifact(tmp_path)
    sources = [read_dataset(dicom_file(i, ramp(0, 100)), DEFAULT_LIMITS) for i in (1, 2, 3)]
    masks = np.zeros((3, 3, 4), np.uint8)
    masks[1, 1] = 1
    seg = pydicom.dcmread(io.BytesIO(segmentation(sources, masks, artifact, ResultOptions(0.5))))
    assert seg.NumberOfFrames == 3
    np.testing.assert_array_equal(seg.pixel_array, masks)
    one = dataclasses.replace(artifact, threshold=0.5)
    assert segmentation(sources, masks, one, ResultOptions(0.5)) != segmentation(sources, masks, one, ResultOptions(0.6)), (
        "another threshold is another object"
    )
