"""Headers of compressed frames, made by the letter of their standards, say what decoding would make."""

from __future__ import annotations

import struct

import pytest

from gazeseg_serve.dicom_codestream import Codestream, read_codestream
from gazeseg_serve.errors import MalformedImage, UnsupportedImage


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def frame(marker: int = 0xC0, bits: int = 8, height: int = 20, width: int = 30, names: bytes = b"\1\2\3") -> bytes:
    components = b"".join(bytes([name, 0x11, 0]) for name in names)
    return segment(marker, struct.pack(">BHHB", bits, height, width, len(names)) + components)


def jpeg(*segments: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(segments) + segment(0xDA, b"\1\1\0\0\0\0") + b"data\xff\xd9"


JFIF = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def adobe(transform: int, length: int = 12) -> bytes:
    return segment(0xEE, (b"Adobe\0\x64\0\0\0\0" + bytes([transform])).ljust(length, b"\0")[:length])


@pytest.mark.parametrize(
    ("segments", "transformed"),
    [
        ((JFIF, frame()), True),
        ((frame(), JFIF), True),
        ((adobe(1), frame()), True),
        ((adobe(0), frame()), False),
        ((adobe(1, 20), frame()), True),
        ((adobe(0), JFIF, frame()), True),  # as libjpeg takes it
        ((frame(names=b"RGB"),), False),
        ((frame(names=b"rgb"),), False),
        ((adobe(1), frame(names=b"RGB")), True),
        ((JFIF, frame(names=b"RGB")), None),  # contradicts itself
        ((adobe(0, 11), frame()), None),  # cut short: libjpeg does not look at it
        ((segment(0xEE, b"Other\0\x64\0\0\0\0\1"), frame()), None),
        ((segment(0xE0, b"JFXX\0\1"), frame()), None),
        ((frame(),), None),
        ((frame(names=b"RGBA"),), None),
    ],
)
def test_what_markers_say_of_colour(segments: tuple[bytes, ...], transformed: bool | None) -> None:
    assert read_codestream(jpeg(*segments)).transformed is transformed


@pytest.mark.parametrize(
    ("marker", "kind"),
    [
        (0xC0, "JPEG"),
        (0xC1, "JPEG"),
        (0xC2, "JPEG"),
        (0xC9, "JPEG"),
        (0xCA, "JPEG"),
        (0xC3, "JPEG Lossless"),
        (0xF7, "JPEG-LS"),
    ],
)
def test_every_kind_of_frame(marker: int, kind: str) -> None:
    found = read_codestream(jpeg(JFIF, frame(marker, 12, 20, 30, b"\1")))
    assert found == Codestream(kind, 30, 20, 1, 12, transformed=True if kind == "JPEG" else None)


def test_the_first_frame_counts_as_it_does_for_a_decoder() -> None:
    """What stands between segments is passed over: fill bytes, restart markers, bytes that are no marker."""
    data = b"\xff\xd8\xff\xff\xff" + frame()[1:] + b"\xff\xd0junk\xff\0" + frame(height=9000) + jpeg()[2:]
    assert (read_codestream(data).height, read_codestream(data).width) == (20, 30)


@pytest.mark.parametrize("marker", [0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF])
def test_frames_that_nothing_decodes_are_refused_by_name(marker: int) -> None:
    with pytest.raises(UnsupportedImage, match="hierarchical"):
        read_codestream(jpeg(frame(marker)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"not an image",
        jpeg(),
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8" + frame()[:-4],
        jpeg(segment(0xC0, b"\x08\0\x10")),
        b"\xff\x4f\xff\x51\0\x29",
    ],
)
def test_what_is_no_whole_header_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedImage, match="compressed frame"):
        read_codestream(data)


def j2k(
    size: tuple[int, int] = (640, 480),
    origin: tuple[int, int] = (0, 0),
    tile: tuple[int, int] = (640, 480),
    depths: tuple[int, ...] = (7,),
    steps: int = 1,
    layers: int = 1,
    levels: int = 2,
    transform: int = 0,
    precincts: bytes = b"",
) -> bytes:
    """The main header of a JPEG 2000 (ISO/IEC 15444-1, A.5.1 and A.6.1), and the beginning of its first tile."""
    corners = struct.pack(">8I", size[0] + origin[0], size[1] + origin[1], *origin, *tile, 0, 0)
    components = b"".join(bytes([depth, steps, 1]) for depth in depths)
    siz = segment(0x51, struct.pack(">H", 0) + corners + struct.pack(">H", len(depths)) + components)
    style = struct.pack(">BBHBBBBBB", bool(precincts), 0, layers, transform, levels, 4, 4, 0, 1)
    return b"\xff\x4f" + siz + segment(0x64, b"a comment") + segment(0x52, style + precincts) + b"\xff\x90\0\x0a"


@pytest.mark.parametrize("box", [b"", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100)])
def test_a_jpeg_2000_with_its_boxes_or_without(box: bytes) -> None:
    found = read_codestream(box + j2k(origin=(100, 50), depths=(0x8B,)))
    assert found == Codestream("JPEG 2000", 640, 480, 1, 12, signed=True, transformed=False, packets=12)  # 4 tiles of 3


@pytest.mark.parametrize("transform", [0, 1])
def test_the_colour_transform_of_jpeg_2000(transform: int) -> None:
    assert read_codestream(j2k(depths=(7, 7, 7), transform=transform)).transformed is bool(transform)


@pytest.mark.parametrize(
    ("header", "packets"),
    [
        ({}, 3),  # one a resolution
        ({"levels": 5}, 6),
        ({"layers": 7}, 21),
        ({"depths": (7, 7, 7)}, 9),
        ({"tile": (64, 48)}, 300),
        ({"tile": (600, 480)}, 6),  # a second column of tiles that is mostly empty
        ({"levels": 0, "precincts": b"\x55"}, 20 * 15),  # 32 x 32
        ({"levels": 0, "precincts": b"\x65"}, 20 * 7),  # 32 wide, 64 high
        ({"levels": 1, "precincts": b"\x44\x55"}, 20 * 15 + 20 * 15),  # 16 x 16 of half the size, then 32 x 32
        ({"levels": 0, "precincts": b"\0", "layers": 65535, "depths": (7, 7, 7)}, 640 * 480 * 65535 * 3),
    ],
)
def test_the_pieces_of_a_jpeg_2000_are_counted(header: dict[str, object], packets: int) -> None:
    assert read_codestream(j2k(**header)).packets == packets  # type: ignore[arg-type]


@pytest.mark.parametrize("header", [{"steps": 2}, {"depths": (7, 11, 7)}, {"depths": (7, 0x87, 7)}])
def test_components_that_differ_are_refused(header: dict[str, object]) -> None:
    with pytest.raises(UnsupportedImage, match="components"):
        read_codestream(j2k(**header))  # type: ignore[arg-type]
