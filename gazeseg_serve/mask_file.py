"""The mask files that `predict` writes: PNGs whose text says what made them, so that no other file is ever replaced."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

SCHEMA = "gazeseg-mask/1"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # of the signature and the chunk IHDR, which has one length
_KEYWORD = b"gazeseg-mask\x00"
_LONGEST = 1024  # bytes of a stamp that are read


@dataclass(frozen=True)
class Stamp:
    """What made a mask. model: the artifact's id; image: the sha256 of the image file; presence: the threshold under which
    nothing is marked, 0 for none; forced: the image is of a kind that the model is not for."""

    model: str
    threshold: float
    image: str
    presence: float = 0.0
    forced: bool = False
    schema: str = SCHEMA


def stamped(png: bytes, stamp: Stamp) -> bytes:
    """The PNG with a text chunk behind its header that holds `stamp` as JSON; its pixels are the same."""
    data = b"tEXt" + _KEYWORD + json.dumps(asdict(stamp)).encode("ascii")
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return png[:_HEADER_END] + chunk + png[_HEADER_END:]


def read_stamp(path: Path) -> Stamp | None:
    """The stamp of a mask file; None for any other file, and for what is no file or cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER_END + 8 + _LONGEST)
    except OSError:
        return None
    if not head.startswith(_SIGNATURE) or head[_HEADER_END + 4 : _HEADER_END + 8 + len(_KEYWORD)] != b"tEXt" + _KEYWORD:
        return None
    (length,) = struct.unpack(">I", head[_HEADER_END : _HEADER_END + 4])
    try:
        return Stamp(**json.loads(head[_HEADER_END + 8 + len(_KEYWORD) : _HEADER_END + 8 + length]))
    except (ValueError, TypeError):
        return None
