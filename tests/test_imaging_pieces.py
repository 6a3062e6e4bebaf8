"""Strips, tiles and scans: what a TIFF or JPEG makes of a reader counts, not what its header says it is."""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from gazeseg_serve.errors import ImageError, ImageTooLarge, MalformedImage, UnsupportedImage
from gazeseg_serve.imaging import decode_image
from gazeseg_serve.tiff_header import WIDTH, directory, pieces

LONG, SHORT = 4, 3


def tiff(tags: dict[int, tuple[int, list[int]]], data: bytes) -> bytes:
    """A little-endian TIFF: `data` at byte 8, then one directory, then the values that do not fit in it."""
    start = 8 + len(data) + len(data) % 2
    entries, values, after = b"", b"", start + 2 + 12 * len(tags) + 4
    for tag, (kind, numbers) in sorted(tags.items()):
        packed = struct.pack(f"<{len(numbers)}{'I' if kind == LONG else 'H'}", *numbers)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", after + len(values))
        values += packed if len(packed) > 4 else b""
        entries += struct.pack("<HHI", tag, kind, len(numbers)) + place
    return (
        b"II*\0"
        + struct.pack("<I", start)
        + data.ljust(start - 8, b"\0")
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
        + values
    )


def grey_tiff(width: int, height: int, compression: int, pieces: dict[int, tuple[int, list[int]]], data: bytes) -> bytes:
    plain = {256: (LONG, [width]), 257: (LONG, [height]), 258: (SHORT, [8]), 259: (SHORT, [compression]), 262: (SHORT, [1])}
    return tiff({**plain, 277: (SHORT, [1]), **pieces}, data)


def tiles(side: int, count: int, length: int, first: int = 8) -> dict[int, tuple[int, list[int]]]:
    return {322: (LONG, [side]), 323: (LONG, [side]), 324: (LONG, [first] * count), 325: (LONG, [length] * count)}


def test_a_tile_larger_than_the_image_is_read_while_it_is_small() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    for compression, data in ((1, pixels.tobytes()), (8, zlib.compress(pixels.tobytes()))):
        found = decode_image(grey_tiff(20, 16, compression, tiles(256, 1, len(data)), data), 1)
        np.testing.assert_array_equal(found[..., 0], pixels[:16, :20])


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("side", [2016, 46_000])
def test_a_tile_far_larger_than_the_image_is_refused(side: int, compression: int) -> None:
    with pytest.raises(ImageTooLarge, match=rf"{side * side} pixels, the image 16 x 16"):
        decode_image(grey_tiff(16, 16, compression, tiles(side, 1, 100), zlib.compress(bytes(1000))))


def test_many_tiles_count_together() -> None:
    with pytest.raises(ImageTooLarge, match="tiles"):
        decode_image(grey_tiff(16, 1600, 8, tiles(1600, 2, 100), zlib.compress(bytes(1000))))


@pytest.mark.parametrize("tag", [273, 324])
def test_more_pieces_than_any_image_needs_are_refused(tag: int) -> None:
    count = 100_001
    pieces = tiles(16, count, 256) if tag == 324 else {273: (LONG, [8] * count), 278: (LONG, [1]), 279: (LONG, [1] * count)}
    size = (16, 16 * count) if tag == 324 else (1, count)
    with pytest.raises(ImageTooLarge, match="100001 pieces"):
        decode_image(grey_tiff(*size, 1, pieces, bytes(256)))


@pytest.mark.parametrize("tag", [273, 324])
def test_too_many_pieces_are_refused_before_anything_lists_them(tag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    for order in "<>":
        data = b"II*\0" if order == "<" else b"MM\0*"
        data += struct.pack(order + "IHHHIII", 8, 1, tag, LONG, 100_001, 26, 0)
        with pytest.raises(ImageTooLarge, match="100001 pieces"):
            decode_image(data)
        assert pieces(data[:20]) == 0, "cut short"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "form"), [(3, "H"), (4, "I"), (16, "Q")])
def test_the_first_directory_of_either_order_classic_or_big(order: str, kind: int, form: str) -> None:
    mark, value = (b"II" if order == "<" else b"MM"), 40_001 if kind == 3 else 70_001
    field = struct.pack(order + form, value)
    classic = mark + struct.pack(order + "HIHHHI", 42, 8, 1, WIDTH, kind, 1) + field.ljust(4, b"\0")
    big = mark + struct.pack(order + "HHHQQHHQ", 43, 8, 0, 16, 1, WIDTH, kind, 1) + field.ljust(8, b"\0")
    for data in (big, classic)[: 1 if kind == 16 else 2]:
        assert directory(data) == {WIDTH: (1, value)}


def jpeg(scans: int) -> bytes:
    """A progressive JPEG of 32 x 32 whose last scan comes again and again."""
    file = io.BytesIO()
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * (scans - data.count(b"\xff\xda")) + data[-2:]


def test_the_scans_of_a_jpeg_in_a_tiff_are_counted() -> None:
    few = jpeg(10)
    strip = {273: (LONG, [8]), 278: (LONG, [32]), 279: (LONG, [len(few)])}
    assert decode_image(grey_tiff(32, 32, 7, strip, few), 1).shape == (32, 32, 1)
    many = jpeg(101)
    strip[279] = (LONG, [len(many)])
    with pytest.raises(UnsupportedImage, match="100 scans"):
        decode_image(grey_tiff(32, 32, 7, strip, many), 1)


def test_a_tiff_of_many_small_jpegs_may_have_a_scan_in_each() -> None:
    file = io.BytesIO()
    pixels = np.full((16 * 130, 16), 77, np.uint8)
    Image.fromarray(pixels).save(file, "TIFF", compression="jpeg", strip_size=256)
    assert file.getvalue().count(b"\xff\xda") >= 130
    assert np.abs(decode_image(file.getvalue(), 1)[..., 0].astype(int) - 77).max() <= 1


def test_a_jpeg_of_a_hundred_scans_is_the_last_that_is_read() -> None:
    assert decode_image(jpeg(100), 1).shape == (32, 32, 1)
    with pytest.raises(UnsupportedImage, match="100 scans"):
        decode_image(jpeg(101), 1)


def test_what_a_reader_says_of_a_broken_file_is_not_told() -> None:
    """Pillow's own words may hold what it read."""
    data = bytearray(jpeg(10))
    with pytest.raises(MalformedImage) as raised:
        decode_image(bytes(data[: len(data) // 2]))
    assert str(raised.value) == "the image cannot be decoded; it is truncated or corrupt"


def test_nothing_that_pillow_reads_is_logged_or_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """At the level of debugging it logs the value of every tag; of a tag that is cut it warns."""
    secret = [ord(letter) for letter in "Doe^Jane"]
    strip = {273: (LONG, [8]), 278: (LONG, [4]), 279: (LONG, [16]), 270: (SHORT, secret)}
    data = grey_tiff(4, 4, 1, strip, bytes(16))
    caplog.set_level(logging.DEBUG)
    logging.getLogger("PIL").setLevel(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert decode_image(data, 1).shape == (4, 4, 1)
        with contextlib.suppress(ImageError):
            decode_image(data[:-8], 1)
    assert warned == []
    assert caplog.records == []
