"""What the model of the service is told: its parts, each measured by itself, with nothing else on the machine.

    python benchmarks/capacity_parts.py [ARTIFACT]

prints the engine's time for each batch size and the CPU of a thread, as JSON. The HTTP work is measured on the
running service (`http_cost`): the request with the ETag of its own answer passes every layer, but neither codec nor engine.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent))
from http_service import photographs
from load import closed_loop, exchange, request_of

from gazeseg_serve import cpus
from gazeseg_serve.default_model import default_artifact
from gazeseg_serve.engines.onnxruntime import OnnxRuntimeEngine
from gazeseg_serve.imaging import decode_image
from gazeseg_serve.outputs import render
from gazeseg_serve.predictor import Predictor


def engine_times(predictor: Predictor, largest: int, seconds: float) -> dict[str, list[float]]:
    """By batch size from 1 to `largest`: median seconds of a call, and the share of all cores it uses; sizes take turns.

    `jitter`: a hundred quantiles of a call's time over the median of its size, of all sizes together.
    """
    spec, rng = predictor.spec, np.random.default_rng(0)
    batches = [
        list(rng.integers(0, 256, (size, spec.size, spec.size, spec.channels), np.uint8)) for size in range(1, largest + 1)
    ]
    for batch in batches * 3:
        predictor.run(batch)
    wall: list[list[float]] = [[] for _ in batches]
    cpu = [0.0] * largest
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for index, batch in enumerate(batches):
            started, used = time.perf_counter(), time.process_time()
            predictor.run(batch)
            wall[index].append(time.perf_counter() - started)
            cpu[index] += time.process_time() - used
    cores = cpus.available()
    over = np.concatenate([np.array(times) / statistics.median(times) for times in wall])
    return {
        "jitter": np.quantile(over, (np.arange(100) + 0.5) / 100).round(4).tolist(),
        "batch_seconds": [statistics.median(times) for times in wall],
        "busy": [min(1.0, used / sum(times) / cores) for used, times in zip(cpu, wall, strict=True)],
    }


def thread_times(predictor: Predictor, files: Sequence[bytes], seconds: float) -> dict[str, float]:
    """CPU seconds of a thread to decode and prepare one file, to run it alone and to render its mask as PNG, all cores doing
    the same.
    """
    artifact = predictor.artifact
    assert artifact is not None, "it comes from an artifact"
    cv2.setNumThreads(1)  # as the service does
    images = [decode_image(file) for file in files]
    engine = predictor.engine
    assert isinstance(engine, OnnxRuntimeEngine), "the model is of the straight way on a CPU"
    prepared = [predictor.prepare(image) for image in images]
    outputs = [predictor.run([predictor.prepare(image)]) for image in images]

    def mean(work: Callable[[int], object]) -> float:
        def repeat(_: int) -> float:
            calls, started, end = 0, time.thread_time(), time.perf_counter() + seconds / 2
            while time.perf_counter() < end:
                work(calls % len(files))
                calls += 1
            return (time.thread_time() - started) / calls

        cores = cpus.available()
        with ThreadPoolExecutor(cores) as pool:
            return statistics.mean(pool.map(repeat, range(cores)))

    return {
        "decode": mean(lambda i: predictor.prepare(decode_image(files[i]))),
        "engine_one": mean(lambda i: engine.run_alone(prepared[i], False)),
        "encode": mean(
            lambda i: render(predictor.finish(outputs[i], 0, images[i].shape[:2]), artifact, "png", artifact.threshold)
        ),
    }


def http_cost(port: int, worker: psutil.Process, files: Sequence[bytes], seconds: float) -> dict[str, float]:
    """CPU seconds a request of the service's HTTP work, in its process `worker`, and of the generator in this one."""
    requests = asyncio.run(_known(port, files))
    asyncio.run(closed_loop(port, requests, 4, 1))
    before, mine = sum(worker.cpu_times()[:2]), time.process_time()
    load = asyncio.run(closed_loop(port, requests, 4, seconds))
    assert set(load.statuses) == {412}, f"the ETag was not known again: {load.statuses}"
    done = load.statuses[412]
    return {"http": (sum(worker.cpu_times()[:2]) - before) / done, "generator": (time.process_time() - mine) / done}


async def _known(port: int, files: Sequence[bytes]) -> list[bytes]:
    """Requests for the masks of `files` that tell the ETag of the answer, so that it is 412 without a body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    requests = []
    for file in files:
        request = request_of(file)
        _, headers, _ = await exchange(reader, writer, request)
        requests.append(request.replace(b"\r\n", b"\r\nIf-None-Match: " + headers[b"etag"] + b"\r\n", 1))
    writer.close()
    return requests


def main() -> None:
    artifact = Path(sys.argv[1]) if len(sys.argv) > 1 else default_artifact()
    predictor = Predictor.open(artifact, "cpu")
    parts = engine_times(predictor, 4, 8.0) | thread_times(predictor, photographs(), 2.0)
    print(json.dumps({"cores": cpus.available(), **parts}))


if __name__ == "__main__":
    main()
