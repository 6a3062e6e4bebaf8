"""Peer: what one writes around the paper's release. FastAPI and the eager PyTorch ensemble at its full size.

uvicorn peers.torch_server:app --port 3000        with DEVICE (cpu, cuda), SIZE and WIDTH in the environment
"""

from __future__ import annotations

import os

import cv2
import numpy as np
import torch
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.imaging import decode_image
from gazeseg_serve.pixels import resize_image
from gazeseg_serve.png import encode_png
from gazeseg_serve.training.networks.architecture import Architecture
from gazeseg_serve.training.networks.ensemble import Ensemble

app = FastAPI()
# configs/kvasir_paper.toml; random weights are as fast as trained ones.
device = os.environ.get("DEVICE", "cpu")
spec = InputSpec(size=int(os.environ.get("SIZE", "224")), classes=("polyp",))
ensemble = Ensemble(Architecture(int(os.environ.get("WIDTH", "64")), norm="group"), spec, seeds=(0, 1)).eval().to(device)


@app.post("/v1/segment")
async def segment(request: Request) -> Response:
    body = await request.body()

    def work() -> bytes:
        image = decode_image(body)
        small = resize_image(image, (spec.size, spec.size))
        with torch.inference_mode():
            x = ensemble.normalise(torch.from_numpy(small).to(device).permute(2, 0, 1)[None].float())
            logits = ensemble(x).mean(dim=0)[0, 0].cpu().numpy()
        full = cv2.resize(logits, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return encode_png((full >= 0).astype(np.uint8), bilevel=True)

    return Response(await run_in_threadpool(work), media_type="image/png")


@app.get("/readyz")
def ready() -> dict[str, bool]:
    return {"ready": True}
