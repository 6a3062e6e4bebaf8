"""Requests that make much of little, for the fuzzer: files whose content is not what their header says, legal files at the
limits, forms of every charset, offers of other protocols, and senders who leave while it is worked on.
"""

from __future__ import annotations

import functools
import io
import random
import struct
import zlib

import numpy as np
from dicoms import dicom_file
from fuzz_requests import Case, form, head, plain
from PIL import Image

SIDE = 2000  # of the largest square that the fuzzed service takes
_OUTPUTS = ("png", "json", "probability", "overlay", "npz", "dicom-seg")
_CHARSETS = ("utf-8", "UTF8", "punycode", "idna", "utf-7", "utf-16", "undefined", "unicode_escape", "rot13", "zlib", "../x", "")


def _saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


@functools.cache
def flat(kind: str, height: int, width: int, mode: str) -> bytes:
    """An image of one colour: a few KiB, however many pixels."""
    options = {"progressive": True, "quality": 50} if kind == "JPEG" else {}
    options |= {"compression": "tiff_lzw"} if kind == "TIFF" else {}
    return _saved(Image.new(mode, (width, height)), kind, **options)


def _codestream(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    """A DICOM file whose header says little and whose pixel data holds more, or the other way round, or many scans."""
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

    rows, columns = rng.choice(((16, 16), (SIDE, SIDE), (1, 65535), (65535, 65535), (0, 5)))
    real = rng.choice(((16, 16), (SIDE, SIDE), (SIDE * 3, SIDE * 3)))
    kind = rng.choice(("jpeg", "scans", "j2k", "rle"))
    if kind == "rle":
        syntax, stream = RLELossless, struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x00" * rng.choice((10, 10_000, 100_000))
    elif kind == "j2k":
        syntax, stream = JPEG2000Lossless, flat("JPEG2000", *real, "L")
        stream = stream[stream.index(b"\xff\x4f\xff\x51") :]
    else:
        syntax, stream = JPEGBaseline8Bit, flat("JPEG", *real, "L")
        if kind == "scans":
            last = stream.rindex(b"\xff\xda")
            stream = stream[:-2] + stream[last:-2] * rng.choice((20, 90, 3000)) + stream[-2:]
    attributes = {"Rows": rows, "Columns": columns, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    data = _dicom(encapsulate([stream]), syntax, attributes)
    return Case("codestream", plain(_path(rng), data, "application/dicom"), leaves=rng.random() < 0.3)


def _dicom(pixels: bytes, syntax: str, attributes: dict[str, object]) -> bytes:
    import pydicom

    data = pydicom.dcmread(io.BytesIO(dicom_file(1, np.zeros((4, 4), np.uint16), **attributes)))
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = pixels
    data["PixelData"].VR = "OB"
    file = io.BytesIO()
    pydicom.dcmwrite(file, data, enforce_file_format=True, implicit_vr=False, little_endian=True)
    return file.getvalue()


def _frames(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    """Many frames of few pixels, as one file or as many slices."""
    count = rng.choice((2, 30, 600, 5000, 40_000))
    if rng.random() < 0.5:
        pixels = np.zeros((1, 1), np.uint16)
        data = dicom_file(1, pixels, NumberOfFrames=count, PixelData=bytes(2 * count))
        return Case("frames", plain("/v1/segment?output=" + rng.choice(_OUTPUTS), data, "application/dicom"))
    slices = min(count, 30)
    side = rng.choice((4, 4, 200))
    files = [("image", str(i), dicom_file(i, np.zeros((side, side), np.uint16))) for i in range(1, slices + 1)]
    path = "/v1/segment/batch?output=" + rng.choice(_OUTPUTS)
    return Case("frames", plain(path, form(files), "multipart/form-data; boundary=edge"), leaves=rng.random() < 0.2)


def _tiles(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    """A TIFF in tiles or strips that are larger than its image, or very many."""
    width, height = rng.choice(((16, 16), (1, 20_000), (1500, 1500)))
    entries = [(256, 4, [width]), (257, 4, [height]), (258, 3, [8]), (262, 3, [1]), (277, 3, [1])]
    compressed = rng.random() < 0.5
    entries.append((259, 3, [8 if compressed else 1]))
    data = zlib.compress(bytes(1000)) if compressed else bytes(1000)
    if rng.random() < 0.6:
        tile = rng.choice((1, 16, 1024, 46_000, 2**31 - 1))
        count = rng.choice((1, 100, 50_000))
        entries += [(322, 4, [tile]), (323, 4, [tile]), (324, 4, [8] * count), (325, 4, [len(data)] * count)]
    else:
        count = rng.choice((1, height, 300_000))
        entries += [(278, 4, [1]), (273, 4, [8] * count), (279, 4, [1] * count)]
    return Case("tiles", plain(_path(rng), _tiff(entries, data), "image/tiff"), leaves=rng.random() < 0.2)


def _tiff(entries: list[tuple[int, int, list[int]]], data: bytes) -> bytes:
    sizes = {3: "H", 4: "I"}
    start = 8 + 2 + 12 * len(entries) + 4
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, kind, numbers in sorted(entries):
        packed = struct.pack(f"<{len(numbers)}{sizes[kind]}", *numbers)
        place = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", start + len(values))
        values += packed if len(packed) > 4 else b""
        directory += struct.pack("<HHI", tag, kind, len(numbers)) + place
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + values + data


def _charset(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    junk = b"a" * rng.choice((10, 100_000)) + b"-" + b"b" * 100
    body = form([("image", "a", corpus["png"])])[: -len("--edge--\r\n")]
    body += b'--edge\r\nContent-Disposition: form-data; name="x-"\r\n\r\n' + junk + b"\r\n--edge--\r\n"
    kind = f"multipart/form-data; boundary=edge; charset={rng.choice(_CHARSETS)}"
    return Case("charset", plain(rng.choice(("/v1/segment", "/v1/segment/batch")), body, kind))


def _large(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    """A legal file of as many pixels as are taken, or a few more; many of these come at once."""
    height, width = rng.choice(((SIDE, SIDE), (SIDE, SIDE), (1, 65_000), (60_000, 66), (SIDE + 1, SIDE)))
    kind, mode = rng.choice((("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "1"), ("JPEG", "RGB"), ("TIFF", "I"), ("TIFF", "RGB")))
    data = flat(kind, height, width, mode)
    if rng.random() < 0.2:
        files = [("image", f"{i}", data) for i in range(rng.randrange(1, 6))]
        body = form(files)
        path = "/v1/segment/batch?output=" + rng.choice(_OUTPUTS)
        return Case("large", plain(path, body, "multipart/form-data; boundary=edge"), leaves=rng.random() < 0.4)
    return Case("large", plain(_path(rng), data, "application/octet-stream"), leaves=rng.random() < 0.4)


def _offer(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    """HTTP/2 offered, the body in pieces or in chunks; an answer over HTTP/1.1 is right."""
    data = corpus["jpeg"]
    offer = {"Connection": "Upgrade, HTTP2-Settings, close", "Upgrade": rng.choice(("h2c", "H2C", "h2c, foo", "TLS/1.0"))}
    headers = {"Host": "t", "Content-Type": "image/jpeg", **offer, "HTTP2-Settings": "AAMAAABk"}
    if rng.random() < 0.5:
        first = head("/v1/segment", {**headers, "Transfer-Encoding": "chunked"})
        return Case("offer", [first, b"%x\r\n" % len(data) + data + b"\r\n", b"0\r\n\r\n"])
    whole = head("/v1/segment", {**headers, "Content-Length": str(len(data))}) + data
    cut = rng.randrange(1, len(whole))
    return Case("offer", [whole[:cut], whole[cut:]])


def _path(rng: random.Random) -> str:
    names = rng.choice(("output", "output", "output", "output", "outptu"))
    return f"/v1/segment?{names}={rng.choice(_OUTPUTS)}&threshold={rng.choice(('0', '0.5', '1'))}"


# Rarely what takes seconds, so that a hundred thousand requests can be tried.
MAKERS = [(_codestream, 1.0), (_frames, 0.4), (_tiles, 1.0), (_charset, 2.0), (_large, 0.2), (_offer, 2.0)]
