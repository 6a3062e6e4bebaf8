"""The HTTP interface put together: segmentation, what is served, metrics, documentation."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from .. import __version__, cpus
from . import problems
from .batch import add_batch
from .problems import REFUSALS
from .protocol_v2 import add_protocol_v2
from .runtime import Runtime
from .segment import Name, add_segment
from .strict import StrictRoute

PAGE = Path(__file__).parent / "page"


def create_api(runtime: Runtime, docs_assets: Path) -> FastAPI:
    """The HTTP interface of `runtime`. docs_assets: the folder with Swagger UI's files."""
    api = FastAPI(
        title="gazeseg-serve",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # Relative to the document, so that Swagger UI asks this server under whatever prefix a proxy shows it.
        servers=[{"url": "."}],
        description="Segmentation of medical images by models trained from gaze.",
    )
    problems.install(api)
    api.router.route_class = StrictRoute
    add_segment(api, runtime)
    add_batch(api, runtime)
    add_protocol_v2(api, runtime)
    _add_about(api, runtime)
    _add_pages(api, docs_assets)
    return api


def _add_about(api: FastAPI, runtime: Runtime) -> None:
    @api.get("/v1/model", summary="What the default model is", responses={k: REFUSALS[k] for k in (401, 503)})
    async def model() -> dict[str, Any]:
        return _model(runtime, runtime.default)

    @api.get("/v1/models", summary="The models served here", responses={401: REFUSALS[401]})
    async def models() -> dict[str, Any]:
        return {"default": runtime.default, "models": list(runtime.hosts)}

    @api.get(
        "/v1/models/{name}", summary="What the model of that name is", responses={k: REFUSALS[k] for k in (401, 404, 422, 503)}
    )
    async def named_model(name: Name) -> dict[str, Any]:
        return _model(runtime, name)

    @api.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        content = await asyncio.to_thread(runtime.telemetry.render)
        return Response(content, media_type=runtime.telemetry.content_type)


def _model(runtime: Runtime, name: str) -> dict[str, Any]:
    host = runtime.host(name)
    card = dataclasses.asdict(host.artifact)
    return {
        "name": name,
        "engine": host.predictor.engine.name,
        "cpus": {
            "available": cpus.available(),
            "engine_threads": host.predictor.engine.threads,
            "codec_threads": runtime.pipeline.places,
        },
        **{
            key: card[key]
            for key in (
                "id",
                "strategy",
                "precision",
                "input",
                "inputs",
                "outputs",
                "colours",
                "threshold",
                "presence",
                "parity",
                "provenance",
                "intended_use",
                "codes",
            )
        },
    }


def _add_pages(api: FastAPI, assets: Path) -> None:
    """The page to try it at `/` and the documentation at `/docs`; both load everything from here, by relative URLs."""
    own = "default-src 'none'; script-src 'self'; img-src 'self' blob: data:; "
    own += "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; "
    api.mount("/page", StaticFiles(directory=PAGE, follow_symlink=True))
    api.mount("/docs/assets", StaticFiles(directory=assets, follow_symlink=True))

    @api.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": own + "style-src 'self'"})

    @api.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        # Swagger UI writes styles into its elements.
        styles = "style-src 'self' 'unsafe-inline'"
        return FileResponse(PAGE / "docs.html", headers={"Content-Security-Policy": own + styles})
