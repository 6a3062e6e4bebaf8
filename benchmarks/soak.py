"""Resident memory of the service's worker over many requests of all kinds.

    python benchmarks/soak.py --requests 20000 --out benchmarks/results/soak.json

Sizes, formats, outputs and refusals are mixed; the model is the tests' tiny one, for it is the service that is looked at.
Reports the slope of a straight line through the samples of the last four fifths, in MiB a thousand requests: the first
fifth fills pools and caches.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
from artifacts import write_artifact  # noqa: E402
from fuzzing import seed_corpus  # noqa: E402
from http_service import photographs  # noqa: E402
from load import exchange, growth, request_of  # noqa: E402
from serving import running  # noqa: E402

EVERY = 250


def mixture() -> list[bytes]:
    """Photographs and small files of every format, each with every output."""
    files = photographs(3) + list(seed_corpus().values())
    outputs = ("png", "json", "probability", "overlay", "npz", "dicom-seg")
    return [
        request_of(file, f"/v1/segment?output={output}", "application/octet-stream")
        for file, output in itertools.product(files, outputs)
    ]


async def soak(port: int, pid: int, requests: int, clients: int) -> tuple[list[tuple[int, float]], dict[str, int]]:
    """The samples (requests done, MiB), and how often each status came."""
    kinds, process = mixture(), psutil.Process(pid)
    order = np.random.default_rng(1).permutation(len(kinds))
    numbers = iter(range(requests))
    samples: list[tuple[int, float]] = []
    statuses: dict[str, int] = {}

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            status, _, _ = await exchange(reader, writer, kinds[order[number % len(order)]])
            statuses[str(status)] = statuses.get(str(status), 0) + 1
            if number % EVERY == 0:
                samples.append((number, process.memory_info().rss / 2**20))
        writer.close()

    await asyncio.gather(*[client() for _ in range(clients)])
    return samples, statuses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        write_artifact(Path(scratch) / "artifact")
        with running(Path(scratch) / "artifact", Path(scratch)) as service:
            pid, port = service.worker().pid, int(service.url.rsplit(":", 1)[1])
            samples, statuses = asyncio.run(soak(port, pid, options.requests, options.clients))
            same = service.worker().pid == pid
    settled = [mib for number, mib in samples if number >= options.requests / 5]
    report: dict[str, Any] = {
        "requests": options.requests,
        "statuses": dict(sorted(statuses.items())),
        "same_worker": same,
        "slope_mib_per_1000_requests": growth(samples),
        "first_mib": round(samples[0][1], 1),
        "settled_mib": round(settled[0], 1),
        "last_mib": round(settled[-1], 1),
        "samples": [[number, round(mib, 1)] for number, mib in samples],
    }
    print(json.dumps(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if same and not any(status.startswith("5") for status in statuses) else 1


if __name__ == "__main__":
    sys.exit(main())
