"""Tensors over HTTP as the Open Inference Protocol, version 2, writes them: JSON, and binary data behind it.

A binary body is the JSON object, of as many bytes as the header `Inference-Header-Content-Length` says, then the data of
the tensors that name their `binary_data_size`, one after the other, little-endian and row-major (the protocol's binary
tensor data extension). Everything asked for is either done or refused: no field is passed over. Nothing here keeps state.
"""

from __future__ import annotations

import itertools
import json
import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from gazeseg_serve.contract import Artifact, Tensor

from .problems import Problem

HEADER = "Inference-Header-Content-Length"
VERSION = "1"
_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
_JSON_BYTES = 4 * 2**20  # of a request: the lists that it makes take up to 20 times its text
_JSON_VALUES = 2**20  # of an answer: a number takes 50 bytes on the way to its text
_ID_LENGTH = 1024
_SHORT = reprlib.Repr()  # a client's lists may be nested deeper than repr itself goes
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxlong = 2, 64, 64


@dataclass(frozen=True)
class Asked:
    """images: `(B, size, size, C)` of the InputSpec's dtype. binary: by name of each output wanted, in the order asked."""

    images: np.ndarray
    binary: dict[str, bool]
    id: str | None


def describe(tensor: Tensor) -> dict[str, Any]:
    """A tensor of the artifact as the protocol's metadata has it: -1 is the batch."""
    shape = [side if isinstance(side, int) else -1 for side in tensor.axes]
    return {"name": tensor.name, "datatype": _DATATYPES[tensor.dtype], "shape": shape}


def header_length(text: str | None, body: int) -> int:
    """Bytes of JSON at the beginning of a body of `body` bytes: as the header says, all without it. Raises Problem 400, 413."""
    if text is None:
        length = body
    elif not (text.isascii() and text.isdecimal()) or len(text) > 12 or int(text) > body:
        _refuse(f"{HEADER} {text[:20]!r} is no number of bytes up to the body's {body}")
    else:
        length = int(text)
    if length > _JSON_BYTES:
        detail = f"the request's JSON has {length} bytes, the limit is {_JSON_BYTES}; send the tensor as binary data"
        raise Problem(413, "body-too-large", detail)
    return length


def parse(artifact: Artifact, body: bytes, json_bytes: int, max_images: int) -> Asked:
    """What the request asks for; `json_bytes` as `header_length` says. Raises Problem 400 or 413."""
    request = _object(body[:json_bytes])
    _known(request, "the request", ("id", "parameters", "inputs", "outputs"))
    parameters = _parameters(request, "the request", ("binary_data_output",))
    inputs = _objects(request.get("inputs"), "inputs")
    if len(inputs) != 1:
        _refuse(f"the request has {len(inputs)} inputs; the model takes one")
    name = request.get("id")
    if name is not None and (not isinstance(name, str) or len(name) > _ID_LENGTH):
        _refuse(f"id is no text of up to {_ID_LENGTH} letters")
    images = _tensor(artifact.inputs[0], inputs[0], memoryview(body)[json_bytes:], max_images)
    binary = _outputs(artifact, request.get("outputs"), _flag(parameters, "binary_data_output", False))
    values = sum(values_of(tensor, len(images)) for tensor in artifact.outputs if not binary.get(tensor.name, True))
    if values > _JSON_VALUES:
        detail = (
            f"the answer would have {values} numbers of JSON, the limit is {_JSON_VALUES}; ask for binary data, or send fewer"
        )
        raise Problem(413, "answer-too-large", detail)
    return Asked(images, binary, name)


def values_of(tensor: Tensor, batch: int) -> int:
    """How many numbers the tensor holds for a batch of that many images."""
    return batch * math.prod(side for side in tensor.axes[1:] if isinstance(side, int))


def render(name: str, asked: Asked, outputs: Mapping[str, np.ndarray]) -> tuple[bytes, int | None]:
    """The answer of model `name`, and how many bytes of it are JSON, None for all. outputs: float32, batch axis first."""
    told: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for output, binary in asked.binary.items():
        array = np.ascontiguousarray(outputs[output], "<f4")
        tensor: dict[str, Any] = {"name": output, "datatype": "FP32", "shape": list(array.shape)}
        if binary:
            tensor["parameters"] = {"binary_data_size": array.nbytes}
            blobs.append(array.tobytes())
        else:
            tensor["data"] = array.ravel().tolist()
        told.append(tensor)
    given = {} if asked.id is None else {"id": asked.id}
    text = json.dumps({"model_name": name, "model_version": VERSION, **given, "outputs": told}, allow_nan=False).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _tensor(declared: Tensor, given: Mapping[str, Any], binary: memoryview, max_images: int) -> np.ndarray:
    _known(given, "an input", ("name", "datatype", "shape", "parameters", "data"))
    if given.get("name") != declared.name:
        _refuse(f"the model's input is {declared.name!r}, not {_shown(given.get('name'))}")
    datatype, shape = _DATATYPES[declared.dtype], _shape(declared, given.get("shape"))
    if given.get("datatype") != datatype:
        _refuse(f"{declared.name} has the datatype {datatype}, not {_shown(given.get('datatype'))}")
    if shape[0] > max_images:
        raise Problem(
            413, "too-many-images", f"{shape[0]} images in one request, the limit is {max_images}; send them in parts"
        )
    parameters = _parameters(given, declared.name, ("binary_data_size",))
    size = parameters.get("binary_data_size")
    if ("data" in given) == (size is not None):
        _refuse(f"{declared.name} needs either data, or a binary_data_size; it has {'both' if size is not None else 'neither'}")
    if len(binary) != (size or 0) or type(size) not in (int, type(None)):
        _refuse(f"{len(binary)} bytes follow the JSON, binary_data_size says {_shown(size)}")
    values = _listed(declared, given["data"], shape) if size is None else _packed(declared, binary, shape)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        _refuse(f"{declared.name} holds a value that is not finite")
    return values.reshape(shape)


def _shape(declared: Tensor, shape: Any) -> tuple[int, ...]:
    wanted = declared.axes[1:]
    whole = isinstance(shape, list) and len(shape) == len(declared.axes) and all(type(side) is int for side in shape)
    if not whole or shape[0] < 1 or tuple(shape[1:]) != wanted:
        _refuse(f"{declared.name} has the shape [images, {', '.join(map(str, wanted))}], not {_shown(shape)}")
    return tuple(shape)


def _packed(declared: Tensor, data: memoryview, shape: Sequence[int]) -> np.ndarray:
    dtype = np.dtype(declared.dtype).newbyteorder("<")
    if len(data) != math.prod(shape) * dtype.itemsize:
        _refuse(f"{declared.name} of that shape has {math.prod(shape) * dtype.itemsize} bytes, {len(data)} came")
    return np.frombuffer(data, dtype)


def _listed(declared: Tensor, data: Any, shape: Sequence[int]) -> np.ndarray:
    """Numbers in one list, or in lists nested as the shape is."""
    if not isinstance(data, list):
        _refuse(f"the data of {declared.name} is no list")
    if data and isinstance(data[0], list):
        for outer, inner in itertools.pairwise(shape):
            if len(data) % outer or set(map(type, data)) != {list} or set(map(len, data)) != {inner}:
                _refuse(f"the lists of {declared.name} are not nested as its shape says")
            data = list(itertools.chain.from_iterable(data))
    if len(data) != math.prod(shape):
        _refuse(f"{declared.name} of that shape has {math.prod(shape)} numbers, {len(data)} came")
    whole = declared.dtype == "uint8"
    if not set(map(type, data)) <= ({int} if whole else {int, float}):
        _refuse(f"the data of {declared.name} is not made of {'whole numbers' if whole else 'numbers'} alone")
    try:
        # Too large for float32 becomes infinite, which is refused later.
        with np.errstate(over="ignore"):
            return np.frombuffer(bytes(data), np.uint8) if whole else np.array(data, np.float64).astype(np.float32)
    except (ValueError, OverflowError):
        _refuse(f"{declared.name} holds a number outside its datatype, {_DATATYPES[declared.dtype]}")


def _outputs(artifact: Artifact, asked: Any, default: bool) -> dict[str, bool]:
    """Whether each output that is wanted comes as binary data; all outputs where none is named."""
    known = [tensor.name for tensor in artifact.outputs]
    binary: dict[str, bool] = {}
    for output in _objects(asked, "outputs") if asked is not None else ():
        _known(output, "an output", ("name", "parameters"))
        name = output.get("name")
        if not isinstance(name, str) or name not in known:
            _refuse(f"output {_shown(name)} is none of the model's: {', '.join(known)}")
        if name in binary:
            _refuse(f"output {name} is asked for twice")
        binary[name] = _flag(_parameters(output, name, ("binary_data",)), "binary_data", default)
    return binary or dict.fromkeys(known, default)


def _object(text: bytes) -> dict[str, Any]:
    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    try:
        found = json.loads(text.decode(), parse_constant=no_number, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        _refuse(f"the request is no JSON: {_shown(str(error))}")
    if not isinstance(found, dict):
        _refuse("the request is no JSON object")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _objects(value: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        _refuse(f"{what} is no list of objects")
    return value


def _parameters(holder: Mapping[str, Any], what: str, known: Iterable[str]) -> dict[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        _refuse(f"the parameters of {what} are no object")
    _known(parameters, f"the parameters of {what}", known)
    return parameters


def _known(holder: Mapping[str, Any], what: str, known: Iterable[str]) -> None:
    strange = sorted(set(holder) - set(known))
    if strange:
        _refuse(f"{_shown(strange[0])} of {what} is not known here; known: {', '.join(known)}")


def _flag(parameters: Mapping[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        _refuse(f"{name} is true or false, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A client's value, short and printable."""
    return ascii(_SHORT.repr(value))[1:-1]


def _refuse(detail: str) -> NoReturn:
    raise Problem(400, "bad-tensor", detail)
