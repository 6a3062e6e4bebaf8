"""The Open Inference Protocol, version 2 (KServe's and Triton's), over HTTP: tensors in, tensors out.

The graph as it is: the client decodes and resizes, cuts and enlarges. The same engine, queue, limits, keys and metrics as
`/v1/` has. Errors carry `error`, where the protocol's clients look for their text.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Request
from fastapi import Path as InPath
from starlette.responses import JSONResponse, Response

from .. import __version__
from .edge import Visit
from .model_host import ModelHost
from .negotiate import content_type, read_body
from .problems import REFUSALS, Problem
from .runtime import Runtime
from .segment import Name, answer, while_wanted
from .tensors import HEADER, VERSION, describe, header_length

_TYPES = ("", "application/json", "application/octet-stream", "application/vnd.openinference.binary")
Version = Annotated[str, InPath(description=f"the one version of every model: {VERSION}", max_length=20)]
_NUMBERS = {"type": "array", "items": {}, "description": "row-major, flat or nested as the shape"}
_REQUEST_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name", "shape", "datatype"],
                                "properties": {
                                    "name": {"type": "string", "enum": ["image"]},
                                    "shape": {"type": "array", "items": {"type": "integer"}},
                                    "datatype": {"type": "string", "enum": ["UINT8", "FP32"]},
                                    "data": _NUMBERS,
                                },
                            },
                        },
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the tensors asked for",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def add_protocol_v2(api: FastAPI, runtime: Runtime) -> None:
    """Add the routes under /v2 to `api`."""
    _add_health(api, runtime)
    about: dict[str, Any] = {"responses": {code: REFUSALS[code] for code in (401, 404, 422, 503)}}

    @api.get("/v2/models/{name}", summary="A model's tensors", **about)
    async def metadata(name: Name) -> dict[str, Any]:
        return _metadata(runtime.host(name))

    @api.get("/v2/models/{name}/versions/{version}", summary="The same", **about)
    async def metadata_of(name: Name, version: Version) -> dict[str, Any]:
        return _metadata(_host(runtime, name, version))

    @api.get("/v2/models/{name}/ready", summary="200 from the end of the model's warm-up", **about)
    async def ready(name: Name) -> dict[str, Any]:
        return _ready(runtime, runtime.host(name))

    @api.get("/v2/models/{name}/versions/{version}/ready", summary="The same", **about)
    async def ready_of(name: Name, version: Version) -> dict[str, Any]:
        return _ready(runtime, _host(runtime, name, version))

    shared: dict[str, Any] = {"responses": {**_ANSWERS, **REFUSALS}, "response_class": Response, "openapi_extra": _REQUEST_BODY}

    @api.post("/v2/models/{name}/infer", summary="Run the graph on prepared images", **shared)
    async def infer(name: Name, request: Request) -> Response:
        return await _infer(runtime, runtime.host(name), request)

    @api.post("/v2/models/{name}/versions/{version}/infer", summary="The same", **shared)
    async def infer_with(name: Name, version: Version, request: Request) -> Response:
        return await _infer(runtime, _host(runtime, name, version), request)


def _add_health(api: FastAPI, runtime: Runtime) -> None:
    down: dict[int | str, dict[str, Any]] = {503: REFUSALS[503]}

    @api.get("/v2", summary="The server's name, version and extensions")
    async def server() -> dict[str, Any]:
        return {"name": "gazeseg-serve", "version": __version__, "extensions": ["binary_tensor_data"]}

    @api.get("/v2/health/live", summary="As /livez", responses=down)
    async def live() -> Response:
        if not runtime.is_alive():
            raise Problem(503, "not-alive", "the models could not be loaded, or a thread is stuck; the log has it")
        return JSONResponse({"live": True})

    @api.get("/v2/health/ready", summary="As /readyz", responses=down)
    async def ready() -> Response:
        if not runtime.is_ready():
            raise _starting()
        return JSONResponse({"ready": True})


def _starting() -> Problem:
    return Problem(503, "starting", "the models are being loaded, or the service ends; try again", {"Retry-After": "2"})


def _host(runtime: Runtime, name: str, version: str) -> ModelHost:
    host = runtime.host(name)
    if version != VERSION:
        raise Problem(404, "no-such-model", f"model {name!r} has version {VERSION} alone")
    return host


def _metadata(host: ModelHost) -> dict[str, Any]:
    artifact = host.artifact
    return {
        "name": host.name,
        "versions": [VERSION],
        "platform": "onnx_onnxv1",
        "inputs": [describe(tensor) for tensor in artifact.inputs],
        "outputs": [describe(tensor) for tensor in artifact.outputs],
    }


def _ready(runtime: Runtime, host: ModelHost) -> dict[str, Any]:
    if not host.warm or not runtime.is_ready():
        raise _starting()
    return {"name": host.name, "ready": True}


async def _infer(runtime: Runtime, host: ModelHost, request: Request) -> Response:
    artifact, settings = host.artifact, runtime.settings
    visit: Visit = request.scope["gazeseg.visit"]
    visit.model = artifact.id[:12]
    visit.enter()
    kind = content_type(request)
    if kind not in _TYPES:
        detail = f"Content-Type {kind!r} is not accepted; send application/json, or application/octet-stream with {HEADER}"
        raise Problem(415, "unsupported-media-type", detail)
    body = await read_body(request, settings.read_seconds)
    json_bytes = header_length(request.headers.get(HEADER), len(body))
    work = runtime.pipeline.tensors(host, body, json_bytes)
    reply, told, steps = await while_wanted(runtime, request, work, settings.timeout_seconds)
    return answer(request, artifact, reply, steps, {} if told is None else {HEADER: str(told)})
