"""Tensors share the queue, the time limit and the counted bytes of images; the engine waits to be told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("bentoml")
from gated_service import gated, metric, post, until
from serving import problem

INFER = "/v2/models/default/infer"
OUTPUTS = 2 * 32 * 32 * 4  # bytes of an image's probability and disagreement


def body(images: int) -> tuple[bytes, int]:
    """(the body, how many bytes of it are JSON)."""
    pixels = np.full((images, 32, 32, 3), 102, np.uint8)
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": list(pixels.shape),
        "parameters": {"binary_data_size": pixels.nbytes},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + pixels.tobytes(), len(head)


def infer(client: httpx.AsyncClient, images: int = 1) -> Awaitable[httpx.Response]:
    content, head = body(images)
    return client.post(INFER, content=content, headers={"Inference-Header-Content-Length": str(head)})


def test_both_doors_fill_one_queue(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder, max_queue=2) as (client, gate, runtime, _):
            waiting = [asyncio.ensure_future(infer(client)), asyncio.ensure_future(post(client))]
            await until(lambda: len(gate.jobs) == 2)
            problem(await infer(client), 503, "queue-full")
            problem(await post(client), 503, "queue-full")
            gate.open.set()
            assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
            assert runtime.admission.total == 0

    asyncio.run(scenario())


def test_what_the_answer_will_take_is_counted_and_given_back(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder, max_bytes=2**19, max_batch_bytes=2**19, held_bytes=2**20) as (client, gate, runtime, _):
            before = runtime.held.total
            waiting = asyncio.ensure_future(infer(client, 50))
            await until(lambda: bool(gate.jobs))
            assert runtime.held.total - before == 50 * OUTPUTS + len(body(50)[0])
            problem(await infer(client, 100), 503, "bytes-full")  # 0.3 MB come, but 0.8 MB would go
            gate.open.set()
            assert (await waiting).status_code == 200
            assert runtime.held.total == before

    asyncio.run(scenario())


def test_an_answer_that_takes_too_long_is_a_504_and_leaves_nothing(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder, timeout_seconds=0.3) as (client, gate, runtime, _):
            problem(await infer(client, 3), 504, "timeout")
            await until(lambda: bool(gate.jobs) and all(job.gone for job in gate.jobs))
            await until(lambda: runtime.held.total == 0)
            text = (await client.get("/metrics")).text
            assert metric(text, 'gazeseg_shed_total{reason="timeout"}') == 1

    asyncio.run(scenario())


def test_readiness_follows_the_service(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, _, runtime, _):
            for path in ("/v2/health/ready", "/v2/models/default/ready"):
                assert (await client.get(path)).status_code == 200
            runtime.admission.draining = True
            for path in ("/v2/health/ready", "/v2/models/default/ready"):
                found = problem(await client.get(path), 503, "starting")
                assert found["error"] == found["detail"]
            assert (await client.get("/v2/health/live")).status_code == 200

    asyncio.run(scenario())
