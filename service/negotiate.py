"""What the request carries and what the client can take: body, content types, encodings, entity tags."""

from __future__ import annotations

import asyncio
import hashlib
import logging

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from gazeseg_serve.outputs import FORMATS, MEDIA_TYPES

from .problems import Problem, storage_full

log = logging.getLogger("gazeseg_serve.service")

IMAGE_TYPES = ("image/png", "image/jpeg", "image/tiff", "application/dicom", "application/octet-stream")
_HASH_INLINE = 256 * 1024  # bytes that are hashed faster than a thread is woken

# The output that a media type in Accept stands for; the first of FORMATS that has it.
_OUTPUT_OF = {MEDIA_TYPES[name]: name for name in reversed(FORMATS)}


def content_type(request: Request) -> str:
    """The request's media type, bare and in lower case. Raises Problem 415 for a compressed body."""
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Problem(
            415,
            "unsupported-encoding",
            f"Content-Encoding {coding!r} is not accepted; send the bytes as they are",
            {"Accept-Encoding": "identity"},
        )
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_image(request: Request, seconds: float) -> bytes:
    """The image's bytes, from the multipart field `image` or from the raw body.

    Raises Problem 400 (no such field), 408 (slower than `seconds`), 413 or 415.
    """
    kind = content_type(request)
    if kind != "multipart/form-data" and kind not in IMAGE_TYPES:
        raise Problem(
            415,
            "unsupported-media-type",
            f"Content-Type {kind or 'missing'!r} is not accepted; send "
            f"multipart/form-data with a field 'image', or a raw body as {', '.join(IMAGE_TYPES)}",
        )
    if kind != "multipart/form-data":
        return await read_body(request, seconds)
    form = await read_form(request, seconds, max_files=1)
    try:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise Problem(400, "no-image", "the form has no file field 'image'; send it as -F image=@FILE")
        return await image.read()
    finally:
        await form.close()


async def read_body(request: Request, seconds: float) -> bytes:
    """The whole body as it is. Raises Problem 408 (slower than `seconds`) or 413."""
    try:
        async with asyncio.timeout(seconds):
            pieces = [piece async for piece in request.stream() if piece]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)  # of one piece no copy is made
    except TimeoutError:
        raise slow_body(seconds) from None


async def read_form(request: Request, seconds: float, max_files: int) -> FormData:
    """The form, to be closed by the caller. Raises Problem 400, 408, 413, 415 or 507 (no room for temporary files)."""
    if content_type(request) != "multipart/form-data":
        raise Problem(415, "unsupported-media-type", "send multipart/form-data with one field 'image' an image")
    # The names of fields would be decoded by it, and some of Python's codecs take minutes for a megabyte.
    _, parameters = parse_options_header(request.headers["content-type"])
    charset = parameters.get(b"charset", b"utf-8").decode("latin-1")
    if charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(415, "unsupported-charset", f"a form in charset {charset[:32]!r} is not accepted; send it in utf-8")
    try:
        async with asyncio.timeout(seconds):
            return await request.form(max_files=max_files, max_fields=8)
    except TimeoutError:
        raise slow_body(seconds) from None
    except OSError as error:  # files over a megabyte are kept in TMPDIR
        log.warning("a form cannot be kept: %s", error.strerror or type(error).__name__)
        raise storage_full() from None


def slow_body(seconds: float) -> Problem:
    return Problem(408, "slow-body", f"the body did not come within {seconds:g} s", {"Connection": "close"})


def preferences(header: str) -> list[tuple[str, float]]:
    """The parts of an Accept or Accept-Encoding header with their weights, best first (RFC 9110, 12.4.2)."""
    parts = []
    for part in header.split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((p[2:] for p in parameters if p.lower().startswith("q=")), "1")
        try:
            parts.append((name.lower(), min(1.0, max(0.0, float(weight)))))
        except ValueError:
            continue
    return sorted((part for part in parts if part[0]), key=lambda part: -part[1])


def output_for(accept: str) -> str:
    """The output that an Accept header asks for; `png` where it takes everything. Raises Problem 406."""
    for name, weight in preferences(accept or "*/*"):
        if weight == 0:
            continue
        if name in _OUTPUT_OF:
            return _OUTPUT_OF[name]
        if name in ("*/*", "image/*"):
            return "png"
        if name == "application/*":
            return "json"
    raise Problem(406, "not-acceptable", f"the service cannot answer as {accept!r}; it answers as {', '.join(_OUTPUT_OF)}")


def takes_gzip(request: Request) -> bool:
    weights = dict(preferences(request.headers.get("accept-encoding", "")))
    return weights.get("gzip", weights.get("*", 0.0)) > 0


async def entity_tag(model: str, options: str, data: bytes) -> str:
    """A weak ETag: the same image, model and options give the same mask (a DICOM object's dates may differ)."""
    if len(data) < _HASH_INLINE:
        return hashed_tag(model, options, data)
    return await asyncio.to_thread(hashed_tag, model, options, data)


def hashed_tag(model: str, options: str, data: bytes) -> str:
    """As `entity_tag`, in this thread."""
    digest = hashlib.sha256(f"{model} {options} ".encode())
    digest.update(data)
    return f'W/"{digest.hexdigest()[:32]}"'


def matches(header: str, tag: str) -> bool:
    """True where an If-None-Match header names `tag` or everything."""
    bare = tag.removeprefix("W/")
    return any(part.strip().removeprefix("W/") in (bare, "*") for part in header.split(","))
