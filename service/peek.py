"""How large an image is, told from a few bytes of its header, so that room can be made before anything decodes it.

An estimate, not a check: a header may lie, and one that is not understood counts as empty. The decoders check for
themselves, within the memory that this estimate gave them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gazeseg_serve.dicom import is_dicom
from gazeseg_serve.tiff_header import HEIGHT, WIDTH, directory

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
# Frame headers (SOF) of a JPEG; C4, C8 and CC are other things.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PLAIN_PIXELS = 2**21  # 1920 x 1080 and a little
_PLAIN_BYTES = 2**20
_PLAIN_SCANS = 16  # a JPEG's; encoders write up to about ten
_DICOM_HEADER = 2**20
_RASTER_BYTES, _DICOM_BYTES = 20, 40  # a pixel at the most, while it is decoded: several copies, of floats for DICOM


@dataclass(frozen=True)
class Peek:
    """pixels: as the header says, 0 where it cannot be told. plain: a small PNG or JPEG, decoded or refused in milliseconds.
    memory: bytes that decoding may take.
    """

    pixels: int
    plain: bool
    memory: int


def peek(data: bytes, max_pixels: int) -> Peek:
    """Look at the beginning of an image file; raises nothing, whatever the bytes are.

    A header that announces more than `max_pixels` gets no memory: the decoder will refuse it, and must not keep others out.
    """
    found = _peek(data)
    return found if found.pixels <= max_pixels else Peek(found.pixels, found.plain, 0)


def _peek(data: bytes) -> Peek:
    if is_dicom(data):
        pixels = _dicom_pixels(data)
        return Peek(pixels, False, pixels * _DICOM_BYTES)
    try:
        if data.startswith(_PNG):
            pixels, scans = _product(*struct.unpack_from(">II", data, 16)), 1
        elif data.startswith(_JPEG):
            pixels, scans = _jpeg_pixels(data), data.count(b"\xff\xda")
        elif data[:2] in (b"II", b"MM"):
            pixels = _tiff_pixels(data)
            return Peek(pixels, False, pixels * _RASTER_BYTES)
        else:  # of no format that is read: refused at a glance
            return Peek(0, len(data) <= _PLAIN_BYTES, 0)
    except (struct.error, IndexError, OverflowError):
        return Peek(0, False, 0)
    plain = 0 < pixels <= _PLAIN_PIXELS and len(data) <= _PLAIN_BYTES and scans <= _PLAIN_SCANS
    return Peek(pixels, plain, pixels * _RASTER_BYTES)


def _product(*sides: int) -> int:
    product = 1
    for side in sides:
        product *= side
    return product


def _jpeg_pixels(data: bytes) -> int:
    """Walk the segments to the frame header (ITU T.81, B.1): two bytes of marker, two of length, and so on."""
    place = 2
    for _ in range(1000):  # segments before the frame; more are no photograph
        if data[place] != 0xFF:
            return 0
        if data[place + 1] == 0xFF:  # a fill byte
            place += 1
            continue
        if data[place + 1] in _FRAMES:
            return _product(*struct.unpack_from(">HH", data, place + 5))
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return 0


def _tiff_pixels(data: bytes) -> int:
    found = directory(data)
    return _product(*(found.get(tag, (0, 0))[1] for tag in (WIDTH, HEIGHT)))


def _dicom_pixels(data: bytes) -> int:
    """Rows times columns times frames of a little-endian DICOM file: the value stands 8 bytes after the tag, with a
    value representation or without.
    """

    def number(element: int) -> int:
        place = data.find(struct.pack("<HH", 0x0028, element), 132, _DICOM_HEADER)
        return int.from_bytes(data[place + 8 : place + 10], "little") if place >= 0 else 0

    frames = 1
    place = data.find(b"\x28\x00\x08\x00IS", 132, _DICOM_HEADER)
    if place >= 0:
        text = data[place + 8 : place + 8 + min(12, int.from_bytes(data[place + 6 : place + 8], "little"))]
        frames = int(text.strip(b" \0")) if text.strip(b" \0").isdigit() else 1
    return _product(number(0x0010), number(0x0011), frames)
