"""`POST /v1/segment` and its sister for a named model: one image in, its mask out."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Header, Query, Request
from fastapi import Path as InPath
from starlette.responses import Response, StreamingResponse

from gazeseg_serve import outputs
from gazeseg_serve.contract import Artifact
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.predictor import check_presence

from .answering import Reply
from .archive import content
from .cancel import ClientGone, while_connected
from .codec_tasks import OutputOptions
from .edge import Visit
from .model_host import ModelHost
from .negotiate import IMAGE_TYPES, entity_tag, matches, output_for, read_image, takes_gzip
from .problems import REFUSALS, Problem
from .runtime import Runtime
from .steps import Steps

T = TypeVar("T")
BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary", "description": "the image file"}},
                }
            },
            **dict.fromkeys(IMAGE_TYPES, BINARY),
        },
    }
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the mask, or what `output` asks for",
        "content": {
            **dict.fromkeys(sorted(set(outputs.MEDIA_TYPES.values())), BINARY),
            "application/json": {"schema": {"type": "object"}},
        },
    }
}

Output = Annotated[
    Literal["png", "json", "probability", "overlay", "npz", "dicom-seg", "dicom-sr"] | None,
    Query(description="what to answer with; default: what Accept asks for, else png"),
]
Threshold = Annotated[
    float | None,
    Query(ge=0, le=1, allow_inf_nan=False, description="probability from which a pixel counts; default: the model's own"),
]
Presence = Annotated[
    float | None,
    Query(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="presence under which nothing is marked; default: the model's own; 0 marks whatever the pixels say",
    ),
]
Disagreement = Annotated[bool, Query(description="add the levels' disagreement (json, overlay, npz)")]
Force = Annotated[bool, Query(description="segment DICOM that contradicts the model's intended use; the answer says so")]
NoneMatch = Annotated[str | None, Header(description="an ETag: 412 where the answer would be the same")]
Name = Annotated[str, InPath(description="a name from /v1/models", max_length=200)]


def add_segment(api: FastAPI, runtime: Runtime) -> None:
    """Add the two routes to `api`."""
    shared: dict[str, Any] = {"responses": {**_ANSWER, **REFUSALS}, "response_class": Response, "openapi_extra": _REQUEST_BODY}

    @api.post("/v1/segment", summary="Segment one image with the default model", **shared)
    async def segment(
        request: Request,
        output: Output = None,
        threshold: Threshold = None,
        presence: Presence = None,
        disagreement: Disagreement = False,
        force: Force = False,
        if_none_match: NoneMatch = None,
    ) -> Response:
        host = runtime.host(runtime.default)
        return await segment_one(runtime, host, request, output, threshold, disagreement, presence, force)

    @api.post("/v1/models/{name}/segment", summary="Segment one image with the model of that name", **shared)
    async def segment_with(
        name: Name,
        request: Request,
        output: Output = None,
        threshold: Threshold = None,
        presence: Presence = None,
        disagreement: Disagreement = False,
        force: Force = False,
        if_none_match: NoneMatch = None,
    ) -> Response:
        return await segment_one(runtime, runtime.host(name), request, output, threshold, disagreement, presence, force)


async def segment_one(
    runtime: Runtime,
    host: ModelHost,
    request: Request,
    output: str | None,
    threshold: float | None,
    disagreement: bool,
    presence: float | None,
    force: bool,
) -> Response:
    """What both routes do. Raises what `problems.of_error` answers."""
    artifact = host.artifact
    options = output_options(request, artifact, output, threshold, disagreement, presence, force)
    visit: Visit = request.scope["gazeseg.visit"]
    visit.model = artifact.id[:12]
    visit.enter()
    data = await read_image(request, runtime.settings.read_seconds)
    condition, tag = request.headers.get("if-none-match", ""), ""
    if condition:  # else a thread makes the tag that has the image anyway, not the event loop
        tag = await entity_tag(artifact.id, repr(options), data)
        if matches(condition, tag):
            raise Problem(412, "same-answer", "the answer would be the one with this ETag", {"ETag": tag})
    work = runtime.pipeline.segment(host, data, options)
    reply, steps = await while_wanted(runtime, request, work, runtime.settings.timeout_seconds)
    tag = tag or reply.tag or await entity_tag(artifact.id, repr(options), data)
    return answer(request, artifact, reply, steps, {"ETag": tag})


def output_options(
    request: Request,
    artifact: Artifact,
    output: str | None,
    threshold: float | None,
    disagreement: bool,
    presence: float | None,
    force: bool,
) -> OutputOptions:
    """What the client wants, complete. Raises Problem 406 or 422."""
    output = output or output_for(request.headers.get("accept", ""))
    try:
        outputs.check(output, artifact, disagreement)
        check_presence(artifact.presence, presence)
    except ConfigError as error:
        raise Problem(422, "bad-parameter", str(error)) from error
    cut = artifact.threshold if threshold is None else threshold
    return OutputOptions(output, cut, disagreement, presence, takes_gzip(request), force)


async def while_wanted(runtime: Runtime, request: Request, work: Coroutine[Any, Any, T], seconds: float) -> T:
    """Await `work` while the client waits, and no longer than `seconds`. Raises Problem 504 or 503, or ClientGone."""
    try:
        async with runtime.within(seconds):
            return await while_connected(request, work)
    except ClientGone:
        runtime.telemetry.shed.labels("client-gone").inc()
        raise


def answer(
    request: Request, artifact: Artifact, reply: Reply, steps: Steps, headers: Mapping[str, str] | None = None
) -> Response:
    """The reply as a response: from memory, or, where it is large, from its file."""
    request.scope["gazeseg.visit"].steps = {step: round(value, 6) for step, value in steps.seconds.items()}
    told = {
        "X-Model-Id": artifact.id,
        "Server-Timing": steps.server_timing(),
        "X-Batch-Size": str(steps.batch),
        "Vary": "Accept, Accept-Encoding",
        **(headers or {}),
        **({"Content-Encoding": "gzip"} if reply.gzipped else {}),
    }
    if reply.file is None:
        return Response(reply.content, media_type=reply.media_type, headers=told)
    told["Content-Length"] = str(reply.size)
    return StreamingResponse(content(reply), media_type=reply.media_type, headers=told)
