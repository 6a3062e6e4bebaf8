"""A light HTTP load generator: keep-alive connections, one request at a time each, every answer checked."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Load:
    """What `clients` clients saw in `seconds`: latencies of the answers with status 200, and all statuses."""

    clients: int
    seconds: float
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    broken: int = 0
    without_retry_after: int = 0

    def summary(self) -> dict[str, Any]:
        ms = np.array(self.latencies or [np.nan]) * 1000
        p50, p95, p99 = np.percentile(ms, [50, 95, 99])
        return {
            "clients": self.clients,
            "images_per_second": round(len(self.latencies) / self.seconds, 1),
            "p50_ms": round(float(p50), 2),
            "p95_ms": round(float(p95), 2),
            "p99_ms": round(float(p99), 2),
            "statuses": {str(status): count for status, count in sorted(self.statuses.items())},
            "wrong_answers": self.wrong,
            "broken_connections": self.broken,
            "refusals_without_retry_after": self.without_retry_after,
        }


def request_of(body: bytes, path: str = "/v1/segment", kind: str = "image/jpeg") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Send one request and read its answer, which must have a Content-Length."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].split(b"\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    body = await reader.readexactly(int(headers.get(b"content-length", b"0")))
    return int(first.split()[1]), headers, body


async def closed_loop(
    port: int,
    requests: Sequence[bytes],
    clients: int,
    seconds: float,
    right: Callable[[int, bytes], bool] | None = None,
    pause_on_refusal: float = 0.0,
) -> Load:
    """`clients` connections send the requests in turn until `seconds` are over; each answer goes through `right`."""
    load = Load(clients, seconds)
    turn = itertools.count()
    begun = time.perf_counter()
    end = begun + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            number = next(turn) % len(requests)
            started = time.perf_counter()
            try:
                status, headers, body = await exchange(reader, writer, requests[number])
            except (asyncio.IncompleteReadError, OSError):
                load.broken += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            load.statuses[status] += 1
            if status == 200:
                load.latencies.append(time.perf_counter() - started)
                load.wrong += right is not None and not right(number, body)
            else:
                load.without_retry_after += b"retry-after" not in headers
                await asyncio.sleep(pause_on_refusal)
        writer.close()

    await asyncio.gather(*[client() for _ in range(clients)])
    load.seconds = time.perf_counter() - begun  # a slow server's last answers come long after the end
    return load


async def open_loop(
    port: int, requests: Sequence[bytes], moments: Sequence[float], right: Callable[[int, bytes], bool] | None = None
) -> Load:
    """Send a request at each of these moments (seconds from the start), whether or not those before are answered.

    A latency counts from the moment the request was due, so a server that holds up the generator does not look fast.
    Connections are kept and used again, the one that was free last first.
    """
    load = Load(0, 0.0)
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    begun = time.perf_counter() + 0.1

    async def send(turn: int, due: float) -> None:
        number = turn % len(requests)
        try:
            reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
            status, headers, body = await exchange(reader, writer, requests[number])
        except (asyncio.IncompleteReadError, OSError):
            load.broken += 1
            return
        free.append((reader, writer))
        load.statuses[status] += 1
        if status == 200:
            load.latencies.append(time.perf_counter() - due)
            load.wrong += right is not None and not right(number, body)
        else:
            load.without_retry_after += b"retry-after" not in headers

    async with asyncio.TaskGroup() as sending:
        for turn, moment in enumerate(moments):
            await asyncio.sleep(begun + moment - time.perf_counter())
            sending.create_task(send(turn, begun + moment))
    load.seconds = time.perf_counter() - begun
    for _, writer in free:
        writer.close()
    return load


def growth(samples: Sequence[tuple[int, float]]) -> float:
    """MiB a thousand requests: the slope of a straight line through the samples (requests done, MiB).

    The first fifth, in which pools and caches fill, is left out.
    """
    settled = np.array([sample for sample in samples if sample[0] >= samples[-1][0] / 5])
    return round(float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0]) * 1000, 4)
