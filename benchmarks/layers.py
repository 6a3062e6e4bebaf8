"""What BentoML's two-service layout costs a request, against its dispatcher in the process that has the request.

    python benchmarks/layers.py

The model is empty: it answers zeros at once, so that nothing is measured but the way there and back. Images are
160 x 160 x 3 bytes, answers two float32 maps of that size. CPU is that of all processes of the server.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import bentoml
import numpy as np
import psutil
from bentoml._internal.marshal.dispatcher import CorkDispatcher
from fastapi import FastAPI

sys.path.insert(0, str(Path(__file__).parent))
from load import closed_loop

PORT = 3902
IMAGE = np.zeros((1, 160, 160, 3), np.uint8)
QUIET = {"metrics": {"enabled": False}, "logging": {"access": {"enabled": False}}, "traffic": {"timeout": 60}}
api = FastAPI()


def nothing(number: int) -> np.ndarray:
    return np.zeros((number, 2, 160, 160), np.float32)


@bentoml.service(name="layers_engine", runner_connection={"max_requests": 10**9, "max_age": 1e9}, **QUIET)
class Engine:
    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=30_000)
    def infer(self, images: np.ndarray) -> np.ndarray:
        return nothing(len(images))


@bentoml.service(name="layers_front", **QUIET)
@bentoml.asgi_app(api, path="/")
class Front:
    engine = bentoml.depends(Engine)


async def run(batch: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    return list(await asyncio.to_thread(nothing, len(batch)))


dispatch = CorkDispatcher(30_000, 16, fallback=lambda: None, get_batch_size=lambda image: 1)(run)


@api.get("/two-services")
async def two_services() -> dict[str, int]:
    return {"maps": len((await bentoml.get_current_service().engine.to_async.infer(IMAGE))[0])}


@api.get("/one-process")
async def one_process() -> dict[str, int]:
    return {"maps": len(await dispatch(IMAGE))}


@api.get("/empty")
async def empty() -> dict[str, int]:
    return {"maps": 2}


def cpu_seconds(process: psutil.Process) -> float:
    return sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))


async def ready() -> None:
    for _ in range(300):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", PORT)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.1)
    raise SystemExit("the server did not start")


async def measure(process: psutil.Process, path: str, seconds: float = 5) -> dict[str, float]:
    request = [f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()]
    await closed_loop(PORT, request, 4, 2)
    alone = (await closed_loop(PORT, request, 1, seconds)).summary()
    before = cpu_seconds(process)
    load = await closed_loop(PORT, request, 16, seconds)
    used = cpu_seconds(process) - before
    return {
        "p50_ms_at_1": alone["p50_ms"],
        "requests_per_second_at_16": load.summary()["images_per_second"],
        "cpu_ms_a_request": round(1000 * used / len(load.latencies), 2),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        environment = {**os.environ, "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": home}
        command = [sys.executable, "-m", "bentoml", "serve", "layers:Front", "--host", "127.0.0.1", "--port", str(PORT)]
        server = subprocess.Popen(
            command, cwd=Path(__file__).parent, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            asyncio.run(ready())
            for path in ("/empty", "/one-process", "/two-services"):
                print(json.dumps({"path": path, **asyncio.run(measure(psutil.Process(server.pid), path))}), flush=True)
        finally:
            server.terminate()
            server.wait(30)


if __name__ == "__main__":
    main()
