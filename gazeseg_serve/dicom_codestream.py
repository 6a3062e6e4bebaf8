"""What the header of a compressed frame says, read before the frame is decoded: it decides what decoding takes."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .errors import MalformedImage, UnsupportedImage

MAX_SCANS = 100  # of a JPEG; encoders write about ten, and each scan of a progressive one goes over all its pixels
_SOI, _SOS, _EOI, _APP0, _APP14, _SOF3, _JPEG_LS = 0xD8, 0xDA, 0xD9, 0xE0, 0xEE, 0xC3, 0xF7
_START_OF_FRAME = {0xC0, 0xC1, 0xC2, _SOF3, 0xC9, 0xCA, _JPEG_LS}
_UNKNOWN_FRAME = {0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF}  # hierarchical, or lossless with arithmetic coding
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_J2K_START = b"\xff\x4f\xff\x51"
_J2K_TILE, _J2K_CODING_STYLE = 0xFF90, 0xFF52
_RGB_NAMES = (b"RGB", b"rgb")


@dataclass(frozen=True)
class Codestream:
    """One compressed frame, by its own header.

    kind         "JPEG", "JPEG Lossless", "JPEG-LS" or "JPEG 2000"
    bits         of a sample, `signed` (which JPEG 2000 alone can say)
    transformed  True: its components are YCbCr (JPEG), or were, and the decoder gives RGB (JPEG 2000); False: no
                 transform; None: its header does not say
    packets      how many pieces a JPEG 2000 is cut into; each takes memory, however small it is
    """

    kind: str
    width: int
    height: int
    components: int
    bits: int
    signed: bool = False
    transformed: bool | None = None
    packets: int = 0


def read_codestream(data: bytes) -> Codestream:
    """Raises MalformedImage where `data` holds no whole header, UnsupportedImage for kinds that nothing here decodes."""
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        start = data.find(_J2K_START, 0, 4096)  # the boxes of a JP2 file may be wrapped around it
        if start >= 0:
            return _jpeg_2000(data, start)
    except (struct.error, IndexError, ValueError, ZeroDivisionError) as error:
        raise MalformedImage("a compressed frame of the DICOM file has a corrupt header; send it uncompressed") from error
    raise MalformedImage("a compressed frame of the DICOM file is neither JPEG, JPEG-LS nor JPEG 2000; send it uncompressed")


def check_scans(data: bytes, parts: int = 1) -> None:
    """Refuse a JPEG, or a file of `parts` JPEGs, whose scans go over its pixels again and again. Raises UnsupportedImage."""
    if data.count(b"\xff\xda") > MAX_SCANS + 4 * (parts - 1):
        raise UnsupportedImage(f"a JPEG of more than {MAX_SCANS} scans is not accepted; save it as a baseline JPEG")


def _jpeg(data: bytes) -> Codestream:
    """Raises IndexError, ValueError or struct.error where the header ends early."""
    place, frame, jfif, adobe = 2, None, False, None
    while True:
        place = data.index(b"\xff", place)  # a decoder, too, skips what is no marker
        while data[place] == 0xFF:
            place += 1
        marker, place = data[place], place + 1
        if marker in _WITHOUT_LENGTH or marker == 0:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        segment, place = data[place + 2 : place + length], place + length
        if marker in _UNKNOWN_FRAME:
            raise UnsupportedImage("a hierarchical JPEG is not accepted; send it uncompressed")
        if marker in _START_OF_FRAME and frame is None:
            frame = marker, segment
        elif marker == _APP0:
            jfif = jfif or segment[:5] == b"JFIF\0"
        elif marker == _APP14 and segment[:5] == b"Adobe" and len(segment) >= 12:
            adobe = segment[11]
        elif marker in (_SOS, _EOI):
            break
    if frame is None:
        raise ValueError("no start of frame")
    kind = {_SOF3: "JPEG Lossless", _JPEG_LS: "JPEG-LS"}.get(frame[0], "JPEG")
    bits, height, width, components = struct.unpack_from(">BHHB", frame[1])
    names = bytes(frame[1][6 + 3 * i] for i in range(components))
    return Codestream(
        kind, width, height, components, bits, transformed=_transformed(jfif, adobe, names) if kind == "JPEG" else None
    )


def _transformed(jfif: bool, adobe: int | None, names: bytes) -> bool | None:
    """Whether the three components of a lossy JPEG are YCbCr: what libjpeg goes by, but None where that would guess, or where
    the header contradicts itself.
    """
    if jfif:
        return None if names in _RGB_NAMES else True
    if adobe is not None:
        return adobe != 0
    return False if names in _RGB_NAMES else None


def _jpeg_2000(data: bytes, start: int) -> Codestream:
    """The main header (ISO/IEC 15444-1, A.5 and A.6). Raises struct.error, IndexError or ZeroDivisionError where it is cut."""
    length, _, *numbers, components = struct.unpack_from(">HH8IH", data, start + 4)
    x1, y1, x0, y0, tile_width, tile_height, tile_x, tile_y = numbers
    depths = {struct.unpack_from(">BBB", data, start + 42 + 3 * i) for i in range(components)}
    if len(depths) != 1 or next(iter(depths))[1:] != (1, 1):
        raise UnsupportedImage("a JPEG 2000 whose components differ in size or depth is not accepted; send it uncompressed")
    depth = next(iter(depths))[0]
    tiles = -(-(x1 - tile_x) // tile_width) * -(-(y1 - tile_y) // tile_height)
    place, transformed, packets = start + 4 + length, False, tiles * components
    while True:
        marker, length = struct.unpack_from(">HH", data, place)
        if marker == _J2K_TILE:
            break
        if marker == _J2K_CODING_STYLE:
            style, _, layers, transform, levels = struct.unpack_from(">BBHBB", data, place + 4)
            sizes = data[place + 14 : place + 15 + levels] if style & 1 else b"\xff" * (levels + 1)
            transformed = transform == 1
            packets = tiles * components * layers * _precincts(min(tile_width, x1), min(tile_height, y1), sizes)
        place += 2 + length
    return Codestream("JPEG 2000", x1 - x0, y1 - y0, components, (depth & 0x7F) + 1, bool(depth & 0x80), transformed, packets)


def _precincts(width: int, height: int, sizes: bytes) -> int:
    """Of one tile component, over all its resolutions from the smallest; a byte of `sizes` holds two exponents."""
    total = 0
    for level, size in enumerate(sizes):
        shift = len(sizes) - 1 - level
        total += max(1, (width >> shift) >> (size & 15)) * max(1, (height >> shift) >> (size >> 4))
    return total
