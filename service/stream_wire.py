"""What goes over a stream: the query it is opened with, and messages of a small JSON head and an image or a mask.

A message is binary: four bytes, big-endian, that say how long the head is; the head, a JSON object; the content.
"""

from __future__ import annotations

import json
import struct
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from gazeseg_serve.errors import ConfigError
from gazeseg_serve.video.settings import Steadiness

from .problems import Problem

PROTOCOL = "gazeseg.stream.v1"  # the subprotocol, for clients that name one
KEY_PROTOCOL = "gazeseg.key."  # a subprotocol of it and the key in base64url: browsers can set no header here
HEAD_BYTES = 4096
_LENGTH = struct.Struct(">I")

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
M = TypeVar("M", bound=BaseModel)


class StreamQuery(BaseModel):
    """What a stream is opened with.

    order: newest: an older frame that still waits is dropped; every: none is, the sender waits. smooth, release: as
    video.steady.Steadiness, over the frames' own stamps. The rest as for /v1/segment, for frames that say nothing else.
    """

    model_config = ConfigDict(extra="forbid")

    output: Literal["png", "json", "probability", "overlay", "npz"] = "png"
    order: Literal["newest", "every"] = "newest"
    threshold: Share | None = None
    presence: Share | None = None
    disagreement: bool = False
    force: bool = False
    smooth: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = 0.0
    release: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0

    @property
    def steadiness(self) -> Steadiness:
        return Steadiness(self.smooth, self.release)


class FrameHead(BaseModel):
    """The head of a frame. stamp: its time in seconds by any clock that goes forward, which the answer repeats."""

    model_config = ConfigDict(extra="forbid")

    stamp: Annotated[float, Field(strict=True, allow_inf_nan=False)]
    threshold: Share | None = None
    presence: Share | None = None


def parse_query(query: QueryParams) -> StreamQuery:
    """Raises Problem 422 for a name or value that is none, or given twice."""
    pairs = query.multi_items()
    if len(dict(pairs)) < len(pairs):
        raise Problem(422, "bad-parameter", "a query parameter is given twice; give it once")
    try:
        return StreamQuery(**dict(pairs))  # type: ignore[arg-type]  # pydantic reads the text
    except (ValidationError, ConfigError) as error:
        raise Problem(422, "bad-parameter", _first(error)) from None


def unpack(message: bytes) -> tuple[FrameHead, bytes]:
    """The head and the image of a message. Raises ValueError, which says what is wrong with it."""
    if len(message) < _LENGTH.size:
        raise ValueError("a message begins with the length of its head, four bytes")
    (length,) = _LENGTH.unpack_from(message)
    if length > min(HEAD_BYTES, len(message) - _LENGTH.size):
        raise ValueError(f"a head of {length} bytes is over {HEAD_BYTES} or the message")
    try:
        head = FrameHead.model_validate_json(message[_LENGTH.size : _LENGTH.size + length])
    except ValidationError as error:
        raise ValueError(_first(error)) from None
    return head, message[_LENGTH.size + length :]


def pack(head: dict[str, Any], content: bytes = b"") -> bytes:
    """A message of this head and content."""
    text = json.dumps(head).encode()
    return _LENGTH.pack(len(text)) + text + content


def _first(error: ValidationError | ConfigError) -> str:
    if isinstance(error, ConfigError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(str(part)[:64] for part in first['loc']) or 'head'}: {first['msg']}"[:100]
