"""The routes. They read the request, let the pipeline work, and write the answer."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query, Request
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from gazeseg_serve import __version__, outputs
from gazeseg_serve.errors import ConfigError

from . import problems
from .pipeline import Steps, Wish
from .problems import Problem
from .runtime import Runtime

PAGE = Path(__file__).parent / "page"
IMAGE_TYPES = ("image/png", "image/jpeg", "image/tiff", "application/dicom", "application/octet-stream")
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REQUEST_BODY = {"requestBody": {"required": True, "content": {
    "multipart/form-data": {"schema": {"type": "object", "required": ["image"], "properties": {
        "image": {"type": "string", "format": "binary", "description": "the image file"}}}},
    **dict.fromkeys(IMAGE_TYPES, _BINARY),
}}}
_PROBLEM = {"content": {"application/problem+json": {"schema": {
    "type": "object", "required": ["type", "title", "status", "code", "detail"],
    "properties": {"type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
                   "code": {"type": "string"}, "detail": {"type": "string"}, "request_id": {"type": "string"}}}}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "malformed image or body", **_PROBLEM},
    401: {"description": "no key, or a wrong one", **_PROBLEM},
    404: {"description": "no such model", **_PROBLEM},
    408: {"description": "the body came too slowly", **_PROBLEM},
    413: {"description": "too many bytes or pixels", **_PROBLEM},
    415: {"description": "not a format that is accepted", **_PROBLEM},
    422: {"description": "a parameter that cannot be used", **_PROBLEM},
    429: {"description": "over this client's share; see Retry-After", **_PROBLEM},
    503: {"description": "full, starting or shutting down; see Retry-After", **_PROBLEM},
    504: {"description": "not answered in time", **_PROBLEM},
}
_IMAGE_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"description": "the mask", "content": dict.fromkeys(set(outputs.MEDIA_TYPES.values()), _BINARY)}}

Output = Annotated[Literal["png", "json", "probability", "overlay", "npz"], Query(description="what to answer with")]
Threshold = Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False,
                                          description="probability from which a pixel counts; default: the model's own")]
Disagreement = Annotated[bool, Query(description="add the levels' disagreement (json, overlay, npz)")]


def create_api(runtime: Runtime, docs_assets: Path) -> FastAPI:
    """The HTTP interface of `runtime`. docs_assets: the folder with Swagger UI's files."""
    api = FastAPI(title="gazeseg-serve", version=__version__, docs_url=None, redoc_url=None,
                  description="Segmentation of medical images by models trained from gaze.")
    problems.install(api)
    _add_segment(api, runtime)
    _add_about(api, runtime)
    _add_docs(api, docs_assets)
    return api


def _add_segment(api: FastAPI, runtime: Runtime) -> None:
    @api.post("/v1/segment", responses={**_IMAGE_ANSWER, **_REFUSALS}, response_class=Response,
              openapi_extra=_REQUEST_BODY, summary="Segment one image")
    async def segment(request: Request, output: Output = "png", threshold: Threshold = None,
                      disagreement: Disagreement = False) -> Response:
        return await _segment(runtime, runtime.default, request, output, threshold, disagreement)


async def _segment(runtime: Runtime, name: str, request: Request, output: str, threshold: float | None,
                   disagreement: bool) -> Response:
    host = runtime.host(name)
    artifact = host.predictor.artifact
    assert artifact is not None
    try:
        outputs.check(output, artifact, disagreement)
    except ConfigError as error:
        raise Problem(422, "bad-parameter", str(error)) from error
    wish = Wish(output, artifact.threshold if threshold is None else threshold, disagreement)
    with runtime.admission.enter(request.scope["gazeseg.client"]):
        data = await _read_image(request, runtime.settings.read_seconds)
        try:
            async with asyncio.timeout(runtime.settings.timeout_seconds):
                rendered, steps = await runtime.pipeline.segment(host, data, wish)
        except TimeoutError:
            runtime.telemetry.shed.labels("timeout").inc()
            raise Problem(504, "timeout", f"no answer within {runtime.settings.timeout_seconds:g} s") from None
    request.scope["gazeseg.model"] = artifact.id[:12]
    request.scope["gazeseg.steps"] = {step: round(value, 6) for step, value in steps.seconds.items()}
    return Response(rendered.content, media_type=rendered.media_type, headers=_headers(artifact.id, steps))


def _headers(model: str, steps: Steps) -> dict[str, str]:
    return {"X-Model-Id": model, "Server-Timing": steps.server_timing(), "X-Batch-Size": str(steps.batch)}


async def _read_image(request: Request, seconds: float) -> bytes:
    """The image's bytes, from the multipart field `image` or from the raw body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data" and kind not in IMAGE_TYPES:
        raise Problem(415, "unsupported-media-type", f"Content-Type {kind or 'missing'!r} is not accepted; send "
                      f"multipart/form-data with a field 'image', or a raw body as {', '.join(IMAGE_TYPES)}")
    try:
        async with asyncio.timeout(seconds):
            if kind != "multipart/form-data":
                return await request.body()
            async with request.form(max_files=1, max_fields=8) as form:
                image = form.get("image")
                if not isinstance(image, UploadFile):
                    raise Problem(400, "no-image", "the form has no file field 'image'; send it as -F image=@FILE")
                return await image.read()
    except TimeoutError:
        raise Problem(408, "slow-body", f"the body did not come within {seconds:g} s",
                      {"Connection": "close"}) from None


def _add_about(api: FastAPI, runtime: Runtime) -> None:
    @api.get("/v1/model", summary="What the default model is", responses={k: _REFUSALS[k] for k in (401, 503)})
    async def model() -> dict[str, Any]:
        return _model(runtime, runtime.default)

    @api.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        content = await asyncio.to_thread(runtime.telemetry.render)
        return Response(content, media_type=runtime.telemetry.content_type)


def _model(runtime: Runtime, name: str) -> dict[str, Any]:
    predictor = runtime.host(name).predictor
    assert predictor.artifact is not None
    card = dataclasses.asdict(predictor.artifact)
    return {"name": name, "engine": predictor.engine.name, **{key: card[key] for key in (
        "id", "strategy", "precision", "input", "inputs", "outputs", "colours", "threshold", "parity", "provenance")}}


def _add_docs(api: FastAPI, assets: Path) -> None:
    policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'"
    api.mount("/docs/assets", StaticFiles(directory=assets))

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(PAGE / "docs.html", headers={"Content-Security-Policy": policy})

    @api.get("/docs/start.js", include_in_schema=False)
    async def start() -> Response:
        return FileResponse(PAGE / "docs.js", media_type="text/javascript")
