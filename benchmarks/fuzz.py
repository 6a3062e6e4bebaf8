"""Throw broken requests at a running service, and count what comes back.

    make fuzz                                                      100,000 requests in five runs
    python benchmarks/fuzz.py --requests 20000 --seed 1            boots the service with the tests' tiny artifact
    python benchmarks/fuzz.py --door v2 --requests 100000          tensors: the Open Inference Protocol (tests/fuzz_tensors.py)
    python benchmarks/fuzz.py --url http://127.0.0.1:3000 ...      one that runs already, on this machine

Nothing may answer 5xx, hang, hold up /livez for a second, or make the worker grow or end; memory is a pod's 2 GiB. Ends with
status 1 where something does. Half the requests mutate image files of a seed corpus (PNG, JPEG, TIFF, DICOM), the rest abuse
headers, parameters, chunked and multipart bodies, or make much of little: pixel data that is not what its header says, frames,
tiles, charsets, large legal files, senders who leave (tests/fuzz_hostile.py). The seed and the number of the request name every
case, so a failure can be made again. After them schemathesis makes requests from the OpenAPI document.
`--out` keeps the runs of other seeds that the file holds.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from artifacts import write_artifact  # noqa: E402
from fuzzing import Case, attack_document, make_case, seed_corpus, send  # noqa: E402
from load import growth  # noqa: E402
from pod import Pod, watched  # noqa: E402
from serving import Running, running  # noqa: E402

GROWTH_LIMIT = 0.5  # MiB a thousand requests, asked of runs long enough to tell: samples scatter by a few MiB
LONG_RUN = 10_000
FREEZE_LIMIT = 1.0  # seconds of /livez


async def attack(
    port: int, requests: int, seed: int, clients: int, report: dict[str, Any], pid: int | None, door: str = "v1"
) -> None:
    """Send `requests` cases over `clients` connections at a time, and fill `report`."""
    corpus = seed_corpus()
    statuses: collections.Counter[str] = collections.Counter()
    kinds: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures: list[dict[str, Any]] = []
    memory: list[tuple[int, float]] = []
    numbers = iter(range(requests))
    slowest = (0.0, -1, "")

    async def client() -> None:
        nonlocal slowest
        for number in numbers:
            case: Case = make_case(random.Random(f"{seed}/{number}"), corpus, door)
            started = time.perf_counter()
            try:
                async with asyncio.timeout(30):
                    status = await send("127.0.0.1", port, case)
            except TimeoutError:
                status = "hang"
            slowest = max(slowest, (round(time.perf_counter() - started, 3), number, case.kind))
            statuses[str(status)] += 1
            kinds[case.kind.split(" ")[0]][str(status)] += 1
            if status == "hang" or (isinstance(status, int) and status >= 500):
                failures.append({"number": number, "kind": case.kind, "status": status})
            if number % 250 == 0 and pid is not None:
                memory.append((number, psutil.Process(pid).memory_info().rss / 2**20))

    await asyncio.gather(*[client() for _ in range(clients)])
    by_kind = {kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items())}
    report.update(
        requests=requests,
        seed=seed,
        statuses=dict(sorted(statuses.items())),
        by_kind=by_kind,
        failures=failures[:50],
        slowest=slowest,
        memory_mib=[[number, round(mib, 1)] for number, mib in memory if number % 1000 == 0],
    )
    if memory:
        report["growth_mib_per_1000_requests"] = growth(memory)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--examples", type=int, default=100, help="of schemathesis, an operation of the document")
    parser.add_argument("--door", choices=("v1", "v2"), default="v1", help="v2: the Open Inference Protocol")
    parser.add_argument("--url")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    started = time.perf_counter()
    if options.url:
        port = int(options.url.rsplit(":", 1)[1])
        asyncio.run(attack(port, options.requests, options.seed, options.clients, report, None, options.door))
    else:
        with booted() as (service, pod):
            port, pid = service.port, service.worker().pid
            with watched(service.port, service.process.pid, pod) as seen:
                asyncio.run(attack(port, options.requests, options.seed, options.clients, report, pid, options.door))
            report.update(seen)
            made = attack_document(service.url, options.examples)
            report["from_the_document"] = {str(status): count for status, count in sorted(made.items())}
            report["same_worker"] = service.worker().pid == pid
            report["errors_logged"] = [
                line[-400:] for line in service.log.read_text().splitlines() if '"level": "error"' in line
            ]
    report["seconds"] = round(time.perf_counter() - started, 1)
    print(json.dumps(report))
    if options.out:
        runs = json.loads(options.out.read_text()) if options.out.exists() else {}
        runs[str(options.seed)] = report
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(dict(sorted(runs.items()))) + "\n")
    grows = options.requests >= LONG_RUN and report.get("growth_mib_per_1000_requests", 0) > GROWTH_LIMIT
    frozen = report.get("livez_worst_seconds", 0) > FREEZE_LIMIT
    wrong = report["failures"], report.get("errors_logged"), report.get("killed_for_memory"), report.get("same_worker") is False
    return int(any(wrong) or grows or frozen)


@contextlib.contextmanager
def booted() -> Iterator[tuple[Running, Pod]]:
    """The service with a tiny artifact, small limits and no patience for slow bodies, in a pod's memory."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.closing(Pod()) as pod:
        folder = Path(scratch) / "artifact"
        write_artifact(folder)
        with running(
            folder,
            Path(scratch),
            pod.inside,
            GAZESEG_MAX_BYTES="2000000",
            GAZESEG_MAX_PIXELS="4000000",
            GAZESEG_READ_SECONDS="0.5",
            GAZESEG_MAX_BATCH_BYTES="4000000",
            GAZESEG_BATCH_SECONDS="10",
            GAZESEG_MAX_IMAGES="20",
        ) as service:
            yield service, pod


if __name__ == "__main__":
    sys.exit(main())
