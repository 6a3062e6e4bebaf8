"""Does an ONNX file keep weights in other files? Told from its protobuf wire format, for serving has no onnx package.

Such weights are read by name from beside the model, or from anywhere, and are under no hash of the manifest.
Field numbers are those of onnx.proto3; the wire format is protobuf's own ("Encoding" in its manual).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from .errors import ContractError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Message -> the fields in it that hold, or lead to, a TensorProto, and the message that each is.
_WAYS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a TensorProto
_DEEPEST = 100


def check_self_contained(path: Path) -> None:
    """Raise ContractError where the ONNX model at `path` is none, or keeps weights outside itself."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            external = _external(data, 0, len(data), "model", 0)
    except (ValueError, IndexError) as error:
        raise ContractError(f"{path} is no ONNX model ({error}); export it again") from error
    if external:
        raise ContractError(f"{path} keeps weights in other files, which no hash covers; save it with all its data inside")


def _external(data: mmap.mmap, start: int, end: int, message: str, depth: int) -> bool:
    if depth > _DEEPEST:
        raise ValueError("graphs are nested too deeply")
    for field, value, stop in _fields(data, start, end):
        if message == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value)):
            return True
        inner = _WAYS[message].get(field)
        if inner is not None and stop is not None and _external(data, value, stop, inner, depth + 1):
            return True
    return False


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """Each field's number with its value, or with the start and end of its bytes. Raises ValueError."""
    place = start
    while place < end:
        key, place = _varint(data, place, end)
        kind, stop = key & 7, None
        if kind == _VARINT:
            value, place = _varint(data, place, end)
        elif kind == _BYTES:
            length, value = _varint(data, place, end)
            place = stop = value + length
        elif kind in (_FIXED64, _FIXED32):
            value, place = place, place + (8 if kind == _FIXED64 else 4)
        else:
            raise ValueError(f"unknown wire type {kind}")
        if place > end:
            raise ValueError("it is cut short")
        yield key >> 3, value, stop


def _varint(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise ValueError("a number in it has no end")
