"""`POST /v1/segment/batch`: many images, or one DICOM series, in one request."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
import zipfile
from collections.abc import AsyncIterator
from typing import IO, Any

from fastapi import FastAPI, Request
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import Response, StreamingResponse

from gazeseg_serve.errors import ImageError, MissingExtraError
from gazeseg_serve.names import answer_names, distinct_names, sent_name
from gazeseg_serve.outputs import SUFFIXES

from .answering import Reply, Wish
from .cancel import gather_some
from .model_host import ModelHost
from .negotiate import content_type, slow_body
from .problems import REFUSALS, Problem, of_image
from .runtime import Runtime
from .segment import BINARY, Disagreement, Name, Output, Threshold, answer_headers, make_wish, within_time

_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "the image files",
                        }
                    },
                }
            }
        },
    }
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a zip of one answer an image and index.json; JSON lines for output=json; one file for dicom-seg",
        "content": {"application/zip": BINARY, "application/jsonl": BINARY, "application/dicom": BINARY},
    }
}
_CHUNK = 256 * 1024
_IN_MEMORY = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class _Item:
    """One image of the batch: its answer, or the problem with it."""

    name: str
    reply: Reply | None
    problem: Problem | None


def add_batch(api: FastAPI, runtime: Runtime) -> None:
    """Add the two routes to `api`."""
    shared: dict[str, Any] = {"responses": {**_ANSWER, **REFUSALS}, "response_class": Response, "openapi_extra": _REQUEST_BODY}

    @api.post("/v1/segment/batch", summary="Segment several images, or one DICOM series", **shared)
    async def batch(
        request: Request, output: Output = None, threshold: Threshold = None, disagreement: Disagreement = False
    ) -> Response:
        return await _batch(runtime, runtime.host(runtime.default), request, output, threshold, disagreement)

    @api.post("/v1/models/{name}/segment/batch", summary="The same with the model of that name", **shared)
    async def batch_with(
        name: Name, request: Request, output: Output = None, threshold: Threshold = None, disagreement: Disagreement = False
    ) -> Response:
        return await _batch(runtime, runtime.host(name), request, output, threshold, disagreement)


async def _batch(
    runtime: Runtime, host: ModelHost, request: Request, output: str | None, threshold: float | None, disagreement: bool
) -> Response:
    artifact = host.artifact
    # Parts of an archive are never compressed one by one.
    wish = dataclasses.replace(make_wish(request, artifact, output or "png", threshold, disagreement), gzip=False)
    request.scope["gazeseg.model"] = artifact.id[:12]
    seconds = runtime.settings.batch_seconds
    with runtime.admission.enter(request.scope["gazeseg.client"]):
        try:
            async with asyncio.timeout(seconds):
                form = await _read_form(request, runtime.settings.max_images)
        except TimeoutError:
            raise slow_body(seconds) from None
        try:
            files = _files(form)
            if wish.output == "dicom-seg":
                contents = [await file.read() for _, file in files]
                reply, steps = await within_time(runtime, request, runtime.pipeline.series(host, contents, wish), seconds)
                return Response(reply.content, media_type=reply.media_type, headers=answer_headers(artifact, steps))
            items = await within_time(runtime, request, _segment_all(runtime, host, files, wish), seconds)
        finally:
            await form.close()
    headers = {"X-Model-Id": artifact.id}
    if wish.output == "json":
        return Response(_json_lines(items), media_type="application/jsonl", headers=headers)
    archive = await run_in_threadpool(_zip, items, artifact.id, wish)
    return StreamingResponse(
        _chunks(archive), media_type="application/zip", headers=headers, background=BackgroundTask(archive.close)
    )


async def _read_form(request: Request, max_images: int) -> Any:
    if content_type(request) != "multipart/form-data":
        raise Problem(415, "unsupported-media-type", "send multipart/form-data with one field 'image' an image")
    return await request.form(max_files=max_images, max_fields=8)


def _files(form: Any) -> list[tuple[str, UploadFile]]:
    """Every image file under a name of its own that is safe in an archive. Raises Problem 400 where there is none."""
    files = [value for value in form.getlist("image") if isinstance(value, UploadFile)]
    if not files:
        raise Problem(400, "no-image", "the form has no file field 'image'; send -F image=@FIRST -F image=@SECOND")
    names = distinct_names([sent_name(file.filename or "", number) for number, file in enumerate(files, start=1)])
    return list(zip(names, files, strict=True))


async def _segment_all(runtime: Runtime, host: ModelHost, files: list[tuple[str, UploadFile]], wish: Wish) -> list[_Item]:
    """Every image, a few at a time, so that one batch does not fill the engine's queue for everyone else."""

    async def one(name: str, file: UploadFile) -> _Item:
        try:
            reply, _ = await runtime.pipeline.segment(host, await file.read(), wish)
        except (ImageError, MissingExtraError) as error:
            return _Item(name, None, of_image(error))
        return _Item(name, reply, None)

    return await gather_some([one(name, file) for name, file in files], host.max_batch)


def _json_lines(items: list[_Item]) -> bytes:
    lines = []
    for item in items:
        body = json.loads(item.reply.content) if item.reply else {"error": _error(item.problem)}
        lines.append(json.dumps({"name": item.name, **body}) + "\n")
    return "".join(lines).encode()


def _error(problem: Problem | None) -> dict[str, Any] | None:
    return None if problem is None else {"status": problem.status, "code": problem.code, "detail": problem.detail}


def _zip(items: list[_Item], model: str, wish: Wish) -> IO[bytes]:
    """An archive, on disk once it is large: a file an image, and what became of each in index.json."""
    archive = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed when the answer has been sent
    index = []
    names = answer_names([item.name for item in items], SUFFIXES[wish.output])
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as packed:
        for item, name in zip(items, names, strict=True):
            if item.reply is not None:
                packed.writestr(name, item.reply.content)
            file = None if item.reply is None else name
            index.append({"name": item.name, "file": file, "error": _error(item.problem)})
        packed.writestr("index.json", json.dumps({"model": model, "threshold": wish.threshold, "images": index}, indent=2))
    archive.seek(0)
    return archive


async def _chunks(archive: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await run_in_threadpool(archive.read, _CHUNK):
        yield chunk
