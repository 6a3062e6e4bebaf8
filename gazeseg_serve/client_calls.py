"""What both clients send: an image of any kind as bytes, and the request that carries it."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, cast
from urllib.parse import quote

import numpy as np
from PIL import Image

from . import client_answers as answers
from .client_answers import Mask, ServiceError
from .errors import ConfigError, ImageError
from .png import encode_png

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | np.ndarray | Image.Image


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, ready to be sent as often as needed, and what makes a value of its answer."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    files: tuple[bytes, ...] = ()

    def request(self) -> dict[str, Any]:
        """The arguments of httpx's `request`."""
        if self.files:  # without the files' own names: the answers come in the order sent
            parts = [("image", (f"image_{i:04d}", data)) for i, data in enumerate(self.files, start=1)]
            return {"method": self.method, "url": self.path, "params": self.params, "files": parts}
        headers = {} if self.content is None else {"Content-Type": "application/octet-stream"}
        return {"method": self.method, "url": self.path, "params": self.params, "content": self.content, "headers": headers}


@dataclass(frozen=True)
class Query:
    """What a call asks for besides its output; None is the model's own."""

    threshold: float | None = None
    disagreement: bool = False
    presence: float | None = None
    force: bool = False

    def params(self, output: str) -> dict[str, str]:
        """The query. Raises ConfigError for a threshold that is no probability."""
        params = {"output": output}
        for name, given in (("threshold", self.threshold), ("presence", self.presence)):
            if given is None:
                continue
            try:
                value = float(given)
            except (TypeError, ValueError):
                value = math.nan
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} {given!r}; give a probability, a number from 0 to 1")
            params[name] = repr(value)
        return params | {name: "true" for name in ("disagreement", "force") if getattr(self, name)}


class Calls:
    """The calls of one service and model. model: a name from /v1/models, None for the default one."""

    def __init__(self, model: str | None) -> None:
        if model is not None and (not isinstance(model, str) or model in ("", ".", "..")):
            raise ConfigError(f"model {model!r} is no name of a model; leave it out for the default one")
        self._prefix = "/v1" if model is None else f"/v1/models/{quote(model, safe='')}"

    @property
    def stream_path(self) -> str:
        return f"{self._prefix}/stream"

    def segment(self, source: Source, wish: Query) -> Call[Mask]:
        return self._one(source, answers.as_mask, "png", wish)

    def describe(self, source: Source, wish: Query) -> Call[dict[str, Any]]:
        return self._one(source, answers.as_object, "json", wish)

    def arrays(self, source: Source, wish: Query) -> Call[dict[str, np.ndarray]]:
        return self._one(source, answers.as_arrays, "npz", wish)

    def overlay(self, source: Source, wish: Query) -> Call[np.ndarray]:
        return self._one(source, answers.as_picture, "overlay", wish)

    def dicom(self, sources: Source | Sequence[Source], output: str, wish: Query) -> Call[bytes]:
        if isinstance(sources, list | tuple):
            return self._many(sources, answers.as_dicom, output, wish)
        return self._one(cast(Source, sources), answers.as_dicom, output, wish)

    def batch(self, sources: Sequence[Source], wish: Query) -> Call[list[Mask | ServiceError]]:
        return self._many(sources, lambda response: answers.as_masks(response, len(sources)), "png", wish)

    def model(self) -> Call[dict[str, Any]]:
        return Call("GET", "/v1/model" if self._prefix == "/v1" else self._prefix, answers.as_object)

    def models(self) -> Call[list[str]]:
        return Call("GET", "/v1/models", answers.as_names)

    def _one(self, source: Source, read: Callable[[httpx.Response], T], output: str, wish: Query) -> Call[T]:
        return Call("POST", f"{self._prefix}/segment", read, wish.params(output), as_file(source))

    def _many(self, sources: Sequence[Source], read: Callable[[httpx.Response], T], output: str, wish: Query) -> Call[T]:
        files = tuple(as_file(source) for source in sources)
        if not files:
            raise ImageError("no image to send; give at least one")
        return Call("POST", f"{self._prefix}/segment/batch", read, wish.params(output), files=files)


def as_file(source: Source) -> bytes:
    """The bytes to send of a path, of bytes, of a file object, of pixels or of a Pillow image. Raises ImageError."""
    if isinstance(source, np.ndarray):
        data = _as_png(source)
    elif isinstance(source, Image.Image):
        data = _saved(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
    elif isinstance(source, str | os.PathLike):
        data = _read(source, lambda: Path(source).read_bytes())
    elif callable(getattr(source, "read", None)):
        data = _read(getattr(source, "name", "the file object"), source.read)
    else:
        raise ImageError(f"{type(source).__name__} is no image; give a path, bytes, a file object, an array or a Pillow image")
    if not data:
        raise ImageError("the image is empty (0 bytes); a file object is read from where it stands")
    return data


def _read(name: object, read: Callable[[], bytes]) -> bytes:
    try:
        data = read()
    except (OSError, ValueError) as error:  # ValueError: a closed file, a NUL in a path
        raise ImageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ImageError(f"{name} gives text, not bytes; open it with mode 'rb'")
    return bytes(data)


def _as_png(pixels: np.ndarray) -> bytes:
    fits = pixels.dtype == np.uint8 and (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3)))
    if not fits or pixels.size == 0:
        raise ImageError(f"pixels are uint8 (H, W), (H, W, 1) or (H, W, 3), not {pixels.dtype} {pixels.shape}")
    return encode_png(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _saved(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    try:
        picture.save(file, "PNG")
    except (OSError, ValueError, SystemError) as error:  # a mode that PNG has no place for; no pixels
        raise ImageError(
            f"a Pillow image of mode {picture.mode} and size {picture.size} cannot be sent as PNG; convert it to RGB"
        ) from error
    return file.getvalue()
