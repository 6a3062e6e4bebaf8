"""A service in this process whose engine waits to be told, and ASGI spoken by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from serving import encoded

from gazeseg_serve.service.app import SWAGGER_UI
from gazeseg_serve.service.edge import Edge
from gazeseg_serve.service.model_host import Answer, Job, MakeBatching, RunBatch
from gazeseg_serve.service.plain_request import PlainRequests
from gazeseg_serve.service.routes import create_api
from gazeseg_serve.service.runtime import Runtime
from gazeseg_serve.service.settings import Settings


class Gate:
    """Batches of one that start when `open` is set; takes the place of the adaptive batching."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.jobs: list[Job] = []

    def __call__(self, run: RunBatch, max_batch: int, max_wait: float, at_once: int) -> Gate:
        self._run = run
        return self

    async def submit(self, job: Job) -> Answer | None:
        self.jobs.append(job)
        await self.open.wait()
        return (await self._run([job]))[0]

    def close(self) -> None:
        self.open.set()


@asynccontextmanager
async def started(
    folder: Path, batching: MakeBatching, **settings: Any
) -> AsyncIterator[tuple[httpx.AsyncClient, Runtime, Edge]]:
    """A ready service with that batching."""
    chosen = Settings(artifact=folder, **settings)
    runtime = Runtime(chosen, batching)
    edge = Edge(PlainRequests(create_api(runtime, SWAGGER_UI), runtime), runtime)
    runtime.start()
    try:
        await until(runtime.is_ready, 60)
        transport = httpx.ASGITransport(edge, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client, runtime, edge
    finally:
        await runtime.stop()


@asynccontextmanager
async def gated(folder: Path, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Gate, Runtime, Edge]]:
    """A ready service whose engine does nothing until the gate opens."""
    gate = Gate()
    async with started(folder, gate, max_batch=1, **settings) as (client, runtime, edge):
        gate.jobs.clear()
        gate.open.clear()
        try:
            yield client, gate, runtime, edge
        finally:
            gate.open.set()


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def post(client: httpx.AsyncClient, path: str = "/v1/segment", **headers: str) -> Awaitable[httpx.Response]:
    return client.post(path, files={"image": encoded()}, headers=headers)


def scope(path: str = "/v1/segment", method: str = "POST", **headers: str) -> dict[str, Any]:
    """An ASGI scope; `content_type="image/png"` is the header Content-Type."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": ("10.0.0.9", 1),
        "server": ("test", 80),
        "headers": [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()],
    }


async def talk(edge: Edge, events: asyncio.Queue[dict[str, Any]], **headers: str) -> int:
    """Send what is in the queue; returns the status."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await edge(scope(**headers), events.get, send)
    return int(sent[0]["status"])


def metric(text: str, name: str) -> float:
    """The value of the sample `name` (with its labels), 0 where there is none."""
    found = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.rsplit(" ", 1)[0] == name]
    return float(found[0]) if found else 0.0
