"""What both clients read: answers into arrays, and every answer that is none into a ServiceError."""

from __future__ import annotations

import io
import json
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from .errors import GazesegError

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
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


def as_labels(content: bytes) -> np.ndarray:
    """The labels of a mask's PNG. Raises ServiceError."""
    try:
        return _labels(content)
    except _BROKEN as error:
        raise ServiceError(f"the service sent what is no mask ({error})", code="bad-answer") from error


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
