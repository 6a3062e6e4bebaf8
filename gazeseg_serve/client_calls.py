"""What both clients send and read, without a connection: requests from images, answers into arrays, and when to try again."""

from __future__ import annotations

import io
import json
import math
import os
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, cast
from urllib.parse import quote

import numpy as np
from PIL import Image

from .errors import ConfigError, GazesegError, ImageError
from .imaging import encode_png

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
Source = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | np.ndarray | Image.Image
RETRIED = (429, 503)
# What Pillow, numpy and zipfile raise on an answer that is not what it says.
_BROKEN = (OSError, SyntaxError, ValueError, KeyError, EOFError, TypeError, RuntimeError, struct.error, zlib.error,
           zipfile.BadZipFile, Image.DecompressionBombError, Image.DecompressionBombWarning)  # fmt: skip


class ServiceError(GazesegError):
    """The service refused, could not be reached, or answered what it never does.

    status: of the answer, 0 where there was none; code: the service's stable word, `unreachable`, `timeout` or
    `bad-answer`; retry_after: the seconds after which the service asks to come back, or None.
    """

    def __init__(self, message: str, status: int = 0, code: str = "unreachable", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


@dataclass(frozen=True)
class Mask:
    """labels: uint8 `(H, W)` in the image's size, 0 background; model: the id of what made it; seconds: per step."""

    labels: np.ndarray
    model: str
    seconds: dict[str, float] = field(default_factory=dict)


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


class Calls:
    """The calls of one service and model. model: a name from /v1/models, None for the default one."""

    def __init__(self, model: str | None) -> None:
        if model is not None and (not isinstance(model, str) or model in ("", ".", "..")):
            raise ConfigError(f"model {model!r} is no name of a model; leave it out for the default one")
        self._prefix = "/v1" if model is None else f"/v1/models/{quote(model, safe='')}"

    def segment(self, source: Source, threshold: float | None) -> Call[Mask]:
        return self._one(source, as_mask, "png", threshold)

    def describe(self, source: Source, threshold: float | None, disagreement: bool) -> Call[dict[str, Any]]:
        return self._one(source, as_object, "json", threshold, disagreement)

    def arrays(self, source: Source, threshold: float | None, disagreement: bool) -> Call[dict[str, np.ndarray]]:
        return self._one(source, as_arrays, "npz", threshold, disagreement)

    def overlay(self, source: Source, threshold: float | None, disagreement: bool) -> Call[np.ndarray]:
        return self._one(source, as_picture, "overlay", threshold, disagreement)

    def dicom_seg(self, sources: Source | Sequence[Source], threshold: float | None) -> Call[bytes]:
        if isinstance(sources, list | tuple):
            return self._many(sources, as_dicom, "dicom-seg", threshold)
        return self._one(cast(Source, sources), as_dicom, "dicom-seg", threshold)

    def batch(self, sources: Sequence[Source], threshold: float | None) -> Call[list[Mask | ServiceError]]:
        return self._many(sources, lambda response: as_masks(response, len(sources)), "png", threshold)

    def model(self) -> Call[dict[str, Any]]:
        return Call("GET", "/v1/model" if self._prefix == "/v1" else self._prefix, as_object)

    def models(self) -> Call[list[str]]:
        return Call("GET", "/v1/models", as_names)

    def _one(
        self,
        source: Source,
        read: Callable[[httpx.Response], T],
        output: str,
        threshold: float | None,
        disagreement: bool = False,
    ) -> Call[T]:
        return Call("POST", f"{self._prefix}/segment", read, _params(output, threshold, disagreement), as_file(source))

    def _many(
        self, sources: Sequence[Source], read: Callable[[httpx.Response], T], output: str, threshold: float | None
    ) -> Call[T]:
        files = tuple(as_file(source) for source in sources)
        if not files:
            raise ImageError("no image to send; give at least one")
        return Call("POST", f"{self._prefix}/segment/batch", read, _params(output, threshold), files=files)


def _params(output: str, threshold: float | None, disagreement: bool = False) -> dict[str, str]:
    params = {"output": output} | ({"disagreement": "true"} if disagreement else {})
    if threshold is None:
        return params
    try:
        value = float(threshold)
    except (TypeError, ValueError):
        value = math.nan
    if not 0 <= value <= 1:
        raise ConfigError(f"threshold {threshold!r}; give a probability, a number from 0 to 1")
    return params | {"threshold": repr(value)}


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


def check(response: httpx.Response) -> httpx.Response:
    """Raise ServiceError for an answer that is an error."""
    if response.is_success:
        return response
    detail: Mapping[str, Any] = {}
    if "json" in response.headers.get("content-type", ""):
        try:
            parsed = response.json()
        except ValueError:  # not even JSON: the status says enough
            parsed = None
        detail = parsed if isinstance(parsed, dict) else {}
    pause = asked_pause(response)
    later = "" if pause is None else f" (it asks to come back in {pause:g} s)"
    raise ServiceError(
        f"the service answered {response.status_code}: {detail.get('detail', response.reason_phrase)}{later}",
        response.status_code,
        str(detail.get("code", "unknown")),
        pause,
    )


def asked_pause(response: httpx.Response) -> float | None:
    """The seconds of a Retry-After header, which are a number or a date (RFC 9110, 10.2.3); None without one."""
    asked = response.headers.get("retry-after", "").strip()
    if asked.isascii() and asked.isdecimal():
        return float(asked)
    try:
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _read_answer(response: httpx.Response, what: str, read: Callable[[bytes], T]) -> T:
    try:
        return read(response.content)
    except _BROKEN as error:
        kind = response.headers.get("content-type", "no type")
        raise ServiceError(
            f"{response.url.copy_with(query=None)} answered {response.status_code} with {kind}, which is not "
            f"{what}; is this the address of the service?",
            response.status_code,
            "bad-answer",
        ) from error


def as_object(response: httpx.Response) -> dict[str, Any]:
    def read(content: bytes) -> dict[str, Any]:
        value = json.loads(content)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value

    return _read_answer(response, "a JSON object", read)


def as_names(response: httpx.Response) -> list[str]:
    return _read_answer(response, "a list of models", lambda content: [str(name) for name in json.loads(content)["models"]])


def as_mask(response: httpx.Response) -> Mask:
    labels = _read_answer(response, "a mask", _labels)
    return Mask(labels, response.headers.get("x-model-id", ""), _seconds(response.headers.get("server-timing", "")))


def as_masks(response: httpx.Response, count: int) -> list[Mask | ServiceError]:
    model = response.headers.get("x-model-id", "")

    def read(content: bytes) -> list[Mask | ServiceError]:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            entries = json.loads(packed.read("index.json"))["images"]
            if len(entries) != count:
                raise ValueError(f"{len(entries)} answers for {count} images")
            return [
                _refusal(entry["error"]) if entry["file"] is None else Mask(_labels(packed.read(entry["file"])), model)
                for entry in entries
            ]

    return _read_answer(response, "an archive of masks", read)


def _refusal(error: Mapping[str, Any]) -> ServiceError:
    return ServiceError(f"the service answered {error['status']}: {error['detail']}", int(error["status"]), str(error["code"]))


def as_picture(response: httpx.Response) -> np.ndarray:
    def read(content: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            return np.asarray(picture.convert("RGB"))

    return _read_answer(response, "a picture", read)


def as_arrays(response: httpx.Response) -> dict[str, np.ndarray]:
    def read(content: bytes) -> dict[str, np.ndarray]:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            if "mask" not in stored:
                raise ValueError("no mask")
            return dict(stored)

    return _read_answer(response, "an npz file", read)


def as_dicom(response: httpx.Response) -> bytes:
    def read(content: bytes) -> bytes:
        if content[128:132] != b"DICM":
            raise ValueError("no DICOM mark")
        return content

    return _read_answer(response, "a DICOM file", read)


def _labels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
        if picture.mode not in ("1", "L", "P"):
            raise ValueError(f"a picture of mode {picture.mode} holds no labels")
        return np.asarray(picture).astype(np.uint8)  # 1 bit: False, True; palette: the index is the label


def _seconds(header: str) -> dict[str, float]:
    seconds = {}
    for part in header.split(","):
        name, mark, value = part.strip().partition(";dur=")
        if mark and value.replace(".", "", 1).isdecimal():
            seconds[name] = float(value) / 1000
    return seconds
