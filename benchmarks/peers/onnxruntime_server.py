"""Peer: what one writes around an ONNX file in an afternoon. FastAPI, a thread a request, no batching, no limits.

Decoding, resizing and encoding are this project's own, so that what differs is how the engine is fed.

    uvicorn peers.onnxruntime_server:app --port 3000        with ARTIFACT in the environment, and DEVICE (cpu, cuda)
"""

from __future__ import annotations

import os

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from gazeseg_serve.imaging import decode_image
from gazeseg_serve.outputs import render
from gazeseg_serve.predictor import Predictor

app = FastAPI()
predictor = Predictor.open(os.environ["ARTIFACT"], os.environ.get("DEVICE", "cpu"))


@app.post("/v1/segment")
async def segment(request: Request) -> Response:
    body = await request.body()

    def work() -> bytes:
        prediction = predictor.predict(decode_image(body))
        return render(prediction, predictor.artifact, "png", 0.5).content  # type: ignore[arg-type]

    return Response(await run_in_threadpool(work), media_type="image/png")


@app.get("/readyz")
def ready() -> dict[str, bool]:
    return {"ready": True}
