"""A fixed window of Hounsfield units: part of the InputSpec, and obeyed from training to the service."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from dicoms import dicom_file
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serving import problem, serve, wait_until_ready
from tiny import tiny_config

from gazeseg_serve.bulk import segment_file
from gazeseg_serve.card import _input_lines
from gazeseg_serve.contract import Artifact, InputSpec, Run
from gazeseg_serve.errors import ConfigError, ContractError, MalformedImage, UnsupportedImage
from gazeseg_serve.export.pipeline import export_run
from gazeseg_serve.imaging import decode_image
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.service.settings import Settings
from gazeseg_serve.training.learning.loop import train

WINDOW = (-1000.0, 400.0)
DICOM = {"Content-Type": "application/dicom"}
HU = {"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "-1024", "RescaleType": "HU"}


def ct(hounsfield: np.ndarray, instance: int = 1, **attributes: object) -> bytes:
    """A CT slice of these Hounsfield units, stored from -1024 on."""
    return dicom_file(instance, (hounsfield + 1024).astype(np.uint16), **(HU | attributes))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@given(st.lists(st.integers(-1024, 3071), min_size=4, max_size=4))
def test_each_unit_has_its_own_grey_whatever_else_is_in_the_image(units: list[int]) -> None:
    values = np.array(units).reshape(2, 2)
    wanted = [min(max((unit + 1000) / 1400, 0), 1) for unit in units]
    as_float = decode_image(ct(values), 1, dtype="float32", window=WINDOW).ravel()
    np.testing.assert_allclose(as_float, wanted, atol=1e-6)
    as_bytes = decode_image(ct(values), 1, window=WINDOW).ravel().astype(int)
    assert all(abs(found - 255 * share) <= 0.5 + 1e-6 for found, share in zip(as_bytes, wanted, strict=True))


def test_neither_the_file_s_window_nor_its_polarity_moves_a_unit() -> None:
    values = np.array([[-1000, -300], [40, 400]])
    wanted = decode_image(ct(values), 1, window=WINDOW)
    for extra in (
        {"WindowCenter": "40", "WindowWidth": "80"},
        {"PhotometricInterpretation": "MONOCHROME1"},
        {"RescaleSlope": "0.5", "RescaleIntercept": "-1512"},  # the same units, stored twice as finely
    ):
        stored = values if "RescaleSlope" not in extra else 2 * (values + 1512) - 1024
        np.testing.assert_array_equal(decode_image(ct(stored, **extra), 1, window=WINDOW), wanted)
    padded = ct(np.array([[-1024, -300], [40, 400]]), PixelPaddingValue=0)
    assert decode_image(padded, 1, window=(-2000.0, 400.0))[0, 0, 0] == 0  # padding, which would be grey


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (dicom_file(1, np.ones((2, 2), np.uint16)), "no rescale"),
        (ct(np.ones((2, 2)), RescaleType="OD"), "a rescale to 'OD'"),
        (png(np.full((2, 2), 1000, np.uint16)), "grey of more than 8 bit"),
    ],
)
def test_what_holds_no_hounsfield_units_is_refused(data: bytes, words: str) -> None:
    decode_image(data, 1)
    with pytest.raises(UnsupportedImage, match=words):
        decode_image(data, 1, window=WINDOW)


def test_a_picture_of_8_bit_is_windowed_already() -> None:
    pixels = np.array([[10, 60], [61, 200]], np.uint8)
    np.testing.assert_array_equal(decode_image(png(pixels), 1, window=WINDOW)[..., 0], pixels)
    np.testing.assert_allclose(decode_image(png(pixels), 1, dtype="float32", window=WINDOW)[..., 0], pixels / 255, atol=1e-6)


def test_a_window_that_is_none_is_named() -> None:
    for window in ((400.0, -1000.0), (0.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)):
        with pytest.raises(ContractError, match="no range of Hounsfield units"):
            InputSpec(32, window=window)
    with pytest.raises(ConfigError, match="least and the greatest"):
        tiny_config("data.window=[-1000.0]")
    with pytest.raises(ConfigError, match="no range"):
        tiny_config("data.window=[400.0, -1000.0]")


def test_an_unknown_error_of_a_file_stays_what_it_is() -> None:
    with pytest.raises(MalformedImage):
        decode_image(ct(np.ones((2, 2)), RescaleSlope="0"), 1, window=WINDOW)


def ct_dataset(folder: Path) -> Path:
    """Discs of 60 HU in lung of -800, in every second slice beside a splinter of metal, with their masks."""
    y, x = np.mgrid[:40, :40]
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(12):
        cy, cx = rng.integers(12, 28, 2)
        disc = (y - cy) ** 2 + (x - cx) ** 2 < 64
        values = np.where(disc, 60, -800) + rng.normal(0, 20, disc.shape).astype(int)
        if i % 2:
            values[:2, :2] = 3000
        (folder / "images" / f"ct_{i:02d}.dcm").write_bytes(ct(values, i + 1))
        (folder / "masks" / f"ct_{i:02d}.png").write_bytes(png(disc.astype(np.uint8)))
    return folder


def test_the_window_goes_from_the_config_through_the_gate_to_an_answer(tmp_path: Path) -> None:
    data = ct_dataset(tmp_path / "data")
    config = tiny_config("data.supervision=full", "data.window=[-1000.0, 400.0]", 'data.classes=["disc"]', "optimiser.steps=20")
    run = train(config, data, None, tmp_path / "run", device="cpu")
    assert run.input.window == Run.load(tmp_path / "run").input.window == WINDOW
    artifact = export_run(tmp_path / "run", tmp_path / "artifact", data)
    assert artifact.input.window == Artifact.load(tmp_path / "artifact").input.window == WINDOW

    stem = sorted(run.splits["val"])[0]
    file = (data / "images" / f"{stem}.dcm").read_bytes()
    predictor = Predictor.open(tmp_path / "artifact", device="cpu")
    image = decode_image(file, 3, window=WINDOW)
    wanted = predictor.predict(image).mask(artifact.threshold)
    assert 0 < wanted.mean() < 1
    segment_file(predictor, data / "images" / f"{stem}.dcm", tmp_path / "mask.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")) > 0, wanted > 0)
    with serve(Settings(artifact=tmp_path / "artifact", device="cpu")) as client:
        wait_until_ready(client)
        answer = client.post("/v1/segment?output=npz", content=file, headers=DICOM)
        with np.load(io.BytesIO(answer.content)) as stored:
            np.testing.assert_array_equal(stored["mask"] > 0, wanted > 0)
        assert client.post("/v1/segment?output=overlay", content=file, headers=DICOM).status_code == 200
        refused = client.post("/v1/segment", content=dicom_file(1, np.ones((40, 40), np.uint16)), headers=DICOM)
        assert "no rescale" in str(problem(refused, 415, "unsupported-image")["detail"])


def test_metal_moves_no_grey_beside_it_as_it_does_without_a_window() -> None:
    values = np.where(np.mgrid[:40, :40][0] > 20, 60, -800)
    metal = values.copy()
    metal[:2, :2] = 3000
    windowed = [decode_image(ct(one), 1, window=WINDOW)[2:].astype(int) for one in (values, metal)]
    np.testing.assert_array_equal(*windowed)
    by_the_file = [decode_image(ct(one), 1)[2:].astype(int) for one in (values, metal)]
    assert np.abs(by_the_file[0] - by_the_file[1]).max() > 100


def test_inspect_names_the_window() -> None:
    assert "window       -1000 to 400 HU" in _input_lines(InputSpec(32, window=WINDOW))
    assert not any("HU" in line for line in _input_lines(InputSpec(32)))
