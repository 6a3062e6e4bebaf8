"""The size of an image, told from its header: right for what encoders write, harmless for everything else."""

from __future__ import annotations

import io
import random
import struct

import cv2
import numpy as np
import pytest
from dicoms import dicom_file
from fuzzing import mutate, seed_corpus
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("pydantic_settings")
from gazeseg_serve.service.peek import Peek
from gazeseg_serve.service.peek import peek as look

STARTS = st.sampled_from(
    [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", bytes(128) + b"DICM"]
)


def peek(data: bytes) -> Peek:
    return look(data, 40_000_000)


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "options"), [
    ("PNG", {}), ("JPEG", {}), ("JPEG", {"progressive": True}), ("JPEG", {"exif": b"Exif\0\0" + bytes(60000)}),
    ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"big_tiff": True}),
])  # fmt: skip
def test_pixels_are_those_of_the_header(kind: str, options: dict[str, object]) -> None:
    found = peek(saved(Image.new("RGB", (70, 31)), kind, **options))
    assert found.pixels == 70 * 31
    assert found.plain == (kind != "TIFF")
    assert found.memory >= 3 * found.pixels


def test_big_endian_tiff() -> None:
    entries = struct.pack(">HHIHHHHII", 256, 3, 1, 300, 0, 257, 4, 1, 200)
    assert peek(b"MM\0*" + struct.pack(">IH", 8, 2) + entries + bytes(4)).pixels == 300 * 200


@pytest.mark.parametrize("implicit", [False, True])
def test_dicom_counts_its_frames(implicit: bool) -> None:
    grey = np.zeros((20, 21), np.uint16)
    data = dicom_file(3, grey, NumberOfFrames=3, PixelData=np.stack([grey] * 3).tobytes())
    if implicit:
        import pydicom

        read = pydicom.dcmread(io.BytesIO(data))
        file = io.BytesIO()
        pydicom.dcmwrite(file, read, implicit_vr=True, little_endian=True, force_encoding=True, enforce_file_format=False)
        found = peek(file.getvalue())
        assert found.pixels in (20 * 21, 20 * 21 * 3)  # frames are found where their value representation is written
    else:
        found = peek(data)
        assert found.pixels == 20 * 21 * 3
    assert not found.plain


@pytest.mark.parametrize("data", [
    saved(Image.new("L", (2000, 1100)), "PNG"),  # pixels
    saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)), "PNG"),  # bytes
    saved(Image.new("L", (64, 64)), "JPEG", progressive=True).replace(b"\xff\xd9", b"\xff\xda" * 40 + b"\xff\xd9"),  # scans
])  # fmt: skip
def test_what_takes_long_is_not_plain(data: bytes) -> None:
    assert not peek(data).plain


def test_a_header_that_announces_too_much_gets_no_memory() -> None:
    """Or a few lies would keep everybody else out."""
    data = saved(Image.new("RGB", (70, 31)), "TIFF")
    assert look(data, 70 * 31).memory > 0
    assert look(data, 70 * 31 - 1).memory == 0
    assert look(data, 70 * 31 - 1).pixels == 70 * 31


def test_a_photograph_is_plain() -> None:
    photo = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 256, (600, 600, 3), np.uint8))[1].tobytes()
    assert peek(photo).plain
    assert peek(saved(Image.new("RGB", (1920, 1080)), "PNG")).plain


@settings(max_examples=300, deadline=None)
@given(start=STARTS, rest=st.binary(max_size=200))
def test_any_bytes_are_looked_at_without_an_error(start: bytes, rest: bytes) -> None:
    found = peek(start + rest)
    assert found.pixels >= 0
    assert found.memory >= 0


def test_mutated_images_are_looked_at_without_an_error() -> None:
    corpus = seed_corpus()
    for number in range(1000):
        rng = random.Random(f"peek/{number}")
        assert peek(mutate(corpus[rng.choice(sorted(corpus))], rng)).pixels >= 0
