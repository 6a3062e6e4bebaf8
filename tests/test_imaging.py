from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, TiffImagePlugin

from gazeseg_serve.errors import ImageError, ImageTooLarge, MalformedImage, UnsupportedImage
from gazeseg_serve.imaging import decode_image, read_image
from gazeseg_serve.pixels import Limits, log_odds, resize_image
from gazeseg_serve.png import encode_map, encode_png, read_map

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_lossless_image_comes_back(kind: str) -> None:
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(RGB), kind)), RGB)


def test_grey_and_colour_become_the_channels_asked_for() -> None:
    grey = saved(Image.fromarray(RGB[..., 0]))
    np.testing.assert_array_equal(decode_image(grey), RGB[..., :1].repeat(3, axis=2))
    np.testing.assert_array_equal(decode_image(grey, channels=1), RGB[..., :1])
    assert decode_image(saved(Image.fromarray(RGB)), channels=1).shape == (20, 30, 1)


def test_sixteen_bit_grey_is_scaled_not_cut() -> None:
    values = np.array([[0, 257, 65535], [32768, 128, 129]], np.uint16)
    decoded = decode_image(saved(Image.fromarray(values)), channels=1)[..., 0]
    np.testing.assert_array_equal(decoded, [[0, 1, 255], [128, 0, 1]])


def test_alpha_lies_on_black() -> None:
    rgba = np.dstack([RGB, np.zeros((20, 30), np.uint8)])
    rgba[:10, :, 3] = 255
    decoded = decode_image(saved(Image.fromarray(rgba)))
    np.testing.assert_array_equal(decoded[:10], RGB[:10])
    assert not decoded[10:].any()


def test_the_camera_s_orientation_is_honoured() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    decoded = decode_image(saved(Image.fromarray(RGB), "PNG", exif=exif))
    np.testing.assert_array_equal(decoded, np.rot90(RGB, k=-1))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", MalformedImage),
        (b"GIF89a" + bytes(40), UnsupportedImage),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UnsupportedImage),
        (saved(Image.fromarray(RGB))[:60], MalformedImage),
        (saved(Image.fromarray(RGB).resize((300, 200)), "JPEG")[:900], MalformedImage),
        (saved(Image.fromarray(RGB), "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]), UnsupportedImage),
    ],
)
def test_what_is_no_whole_image_is_refused(data: bytes, error: type[ImageError]) -> None:
    with pytest.raises(error):
        decode_image(data)


def test_a_chain_of_many_frames_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    first = saved(Image.fromarray(RGB), "TIFF")
    assert first[:4] == b"II*\0"
    chain = bytearray(first)
    entries = int.from_bytes(chain[4:8], "little")
    after = entries + 2 + 12 * int.from_bytes(chain[entries : entries + 2], "little")
    chain[after : after + 4] = len(first).to_bytes(4, "little")
    for place in range(len(first), len(first) + 6 * 300_000, 6):  # empty directories, each naming the next
        chain += (0).to_bytes(2, "little") + (place + 6).to_bytes(4, "little")
    right, read = TiffImagePlugin.ImageFileDirectory_v2.load, []

    def noted(self: TiffImagePlugin.ImageFileDirectory_v2, file: IO[bytes]) -> None:
        read.append(1)
        right(self, file)

    monkeypatch.setattr(TiffImagePlugin.ImageFileDirectory_v2, "load", noted)
    with pytest.raises(ImageError):
        decode_image(bytes(chain))
    assert len(read) < 10


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded() -> None:
    data = saved(Image.fromarray(RGB), "JPEG", progressive=True)
    np.testing.assert_array_equal(decode_image(data).shape, RGB.shape)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(UnsupportedImage, match="scans"):
        decode_image(data[:last] + data[last:-2] * 200 + data[-2:])


def test_the_limits_hold_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb, larger = saved(Image.new("1", (9_000, 9_000))), saved(Image.new("1", (20_000, 12_000)))
    assert len(bomb) < 50_000
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageTooLarge, match="9000 x 9000"):
        decode_image(bomb)
    with pytest.raises(ImageTooLarge, match="more than"):
        decode_image(larger)
    with pytest.raises(ImageTooLarge, match="bytes"):
        decode_image(bytes(100), limits=Limits(max_bytes=99))


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(["PNG", "JPEG", "TIFF"]), st.data())
def test_a_mutated_file_decodes_or_raises_an_error_of_ours(kind: str, data: st.DataObject) -> None:
    content = bytearray(saved(Image.fromarray(RGB), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_image(bytes(content))
    except ImageError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.shape[2] == 3


def test_a_path_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"junk")
    with pytest.raises(UnsupportedImage, match=r"x\.png"):
        read_image(tmp_path / "x.png")
    with pytest.raises(MalformedImage, match="No such file"):
        read_image(tmp_path / "y.png")


@given(arrays(np.float32, (7, 5), elements=st.floats(0, 1, width=32)))
def test_a_map_comes_back_within_its_step(values: np.ndarray) -> None:
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        file.write(encode_map(values))
        file.flush()
        assert np.abs(read_map(Path(file.name)) - values).max() <= 0.5 / 65535 + 1e-7


def test_a_mask_is_written_with_one_bit() -> None:
    mask = RNG.integers(0, 2, (13, 21), dtype=np.uint8)
    image = Image.open(io.BytesIO(encode_png(mask, bilevel=True)))
    assert image.mode == "1"
    np.testing.assert_array_equal(np.asarray(image), mask.astype(bool))


def test_shrinking_averages_areas() -> None:
    blocks = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_image(blocks.repeat(5, 0).repeat(5, 1), (4, 6)), blocks)


def test_log_odds_are_the_logits() -> None:
    logits = RNG.normal(0, 4, (1, 5, 6)).astype(np.float32)
    np.testing.assert_allclose(log_odds(1 / (1 + np.exp(-logits))), logits, atol=1e-3)
    classes = RNG.normal(0, 2, (3, 5, 6)).astype(np.float32)
    softmax = np.exp(classes) / np.exp(classes).sum(0)
    difference = log_odds(softmax) - classes  # one number a pixel, the same for all classes
    np.testing.assert_allclose(difference, np.broadcast_to(difference[:1], difference.shape), atol=1e-4)
