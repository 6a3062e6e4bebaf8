"""`POST /v1/segment/batch`: many images, or one DICOM series, in one request."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response, StreamingResponse

from gazeseg_serve.errors import ImageError, MissingExtraError
from gazeseg_serve.names import answer_names, distinct_names, sent_name
from gazeseg_serve.outputs import OF_DICOM, SUFFIXES

from .archive import Item, json_lines, zipped
from .cancel import in_order
from .codec_tasks import OutputOptions
from .edge import Visit
from .model_host import ModelHost
from .negotiate import read_form
from .problems import REFUSALS, Problem, of_image
from .runtime import Runtime
from .segment import BINARY, Disagreement, Force, Name, Output, Presence, Threshold, answer, output_options, while_wanted

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
        "description": "a zip of one answer an image and index.json; JSON lines for json; one file for dicom-seg and dicom-sr",
        "content": {"application/zip": BINARY, "application/jsonl": BINARY, "application/dicom": BINARY},
    }
}


def add_batch(api: FastAPI, runtime: Runtime) -> None:
    """Add the two routes to `api`."""
    shared: dict[str, Any] = {"responses": {**_ANSWER, **REFUSALS}, "response_class": Response, "openapi_extra": _REQUEST_BODY}

    @api.post("/v1/segment/batch", summary="Segment several images, or one DICOM series", **shared)
    async def batch(
        request: Request,
        output: Output = None,
        threshold: Threshold = None,
        presence: Presence = None,
        disagreement: Disagreement = False,
        force: Force = False,
    ) -> Response:
        return await _batch(runtime, runtime.host(runtime.default), request, output, threshold, disagreement, presence, force)

    @api.post("/v1/models/{name}/segment/batch", summary="The same with the model of that name", **shared)
    async def batch_with(
        name: Name,
        request: Request,
        output: Output = None,
        threshold: Threshold = None,
        presence: Presence = None,
        disagreement: Disagreement = False,
        force: Force = False,
    ) -> Response:
        return await _batch(runtime, runtime.host(name), request, output, threshold, disagreement, presence, force)


async def _batch(
    runtime: Runtime,
    host: ModelHost,
    request: Request,
    output: str | None,
    threshold: float | None,
    disagreement: bool,
    presence: float | None,
    force: bool,
) -> Response:
    artifact = host.artifact
    # Parts of an archive are never compressed one by one.
    options = dataclasses.replace(
        output_options(request, artifact, output or "png", threshold, disagreement, presence, force), gzip=False
    )
    visit: Visit = request.scope["gazeseg.visit"]
    visit.model = artifact.id[:12]
    visit.enter()
    form = await read_form(request, runtime.settings.batch_seconds, runtime.settings.max_images)
    try:
        files = _files(form)
        if options.output in OF_DICOM:
            return await _series(runtime, host, request, files, options)
    except BaseException:
        await form.close()
        raise
    items = _segment_all(runtime, host, files, options)
    headers = {"X-Model-Id": artifact.id}
    if options.output == "json":
        return StreamingResponse(json_lines(items), media_type="application/jsonl", headers=headers)
    names = [name for name, _ in files]
    entries = dict(zip(names, answer_names(names, SUFFIXES[options.output]), strict=True))
    archive = zipped(items, entries, {"model": artifact.id, "threshold": options.threshold})
    return StreamingResponse(archive, media_type="application/zip", headers=headers)


async def _series(
    runtime: Runtime, host: ModelHost, request: Request, files: list[tuple[str, UploadFile]], options: OutputOptions
) -> Response:
    contents = []
    for _, file in files:
        contents.append(await file.read())
        await file.close()
        await asyncio.sleep(0)  # hundreds of files in memory would be copied in one go
    work = runtime.pipeline.series(host, contents, options)
    reply, steps = await while_wanted(runtime, request, work, runtime.settings.batch_seconds)
    return answer(request, host.artifact, reply, steps)


def _files(form: FormData) -> list[tuple[str, UploadFile]]:
    """Every image file under a name of its own that is safe in an archive. Raises Problem 400 where there is none."""
    files = [value for value in form.getlist("image") if isinstance(value, UploadFile)]
    if not files:
        raise Problem(400, "no-image", "the form has no file field 'image'; send -F image=@FIRST -F image=@SECOND")
    names = distinct_names([sent_name(file.filename or "", number) for number, file in enumerate(files, start=1)])
    return list(zip(names, files, strict=True))


async def _segment_all(
    runtime: Runtime, host: ModelHost, files: list[tuple[str, UploadFile]], options: OutputOptions
) -> AsyncIterator[Item]:
    """Every image, a few at a time, so that one batch does not fill the engine's queue for everyone else."""
    seconds = runtime.settings.batch_seconds
    end = time.monotonic() + seconds

    async def one(name: str, file: UploadFile) -> Item:
        try:
            async with runtime.within(end - time.monotonic(), seconds):
                reply, _ = await runtime.pipeline.segment(host, await file.read(), options, patient=True)
                await file.close()
        except (ImageError, MissingExtraError) as error:
            return Item(name, None, of_image(error))
        except Problem as problem:
            return Item(name, None, problem)
        return Item(name, reply, None)

    try:
        async with contextlib.aclosing(in_order([one(name, file) for name, file in files], host.max_batch)) as items:
            async for item in items:
                yield item
    finally:
        for _, file in files:
            file.file.close()  # not by the form, which would wait for a thread: this may be the end of a cancelled request
