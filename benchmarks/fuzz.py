"""Throw broken requests at a running service, and count what comes back.

    python benchmarks/fuzz.py --requests 100000 --seed 1          boots the service with the tests' tiny artifact
    python benchmarks/fuzz.py --url http://127.0.0.1:3000 ...     one that runs already, on this machine

Nothing may answer 5xx (but 503 under load), hang, or make the worker grow. Ends with status 1 where something does.
Half the requests mutate image files of a seed corpus (PNG, JPEG, TIFF, DICOM), the rest abuse headers, parameters,
chunked and multipart bodies. The seed and the number of the request name every case, so a failure can be made again.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fuzzing import Case, make_case, seed_corpus, send  # noqa: E402
from serving import Running, running  # noqa: E402


async def attack(port: int, requests: int, seed: int, clients: int, report: dict[str, Any], pid: int | None) -> None:
    """Send `requests` cases over `clients` connections at a time, and fill `report`."""
    corpus = seed_corpus()
    statuses: collections.Counter[str] = collections.Counter()
    kinds: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    failures: list[dict[str, Any]] = []
    memory: list[tuple[int, int]] = []
    numbers = iter(range(requests))
    slowest = (0.0, -1, "")

    async def client() -> None:
        nonlocal slowest
        for number in numbers:
            case: Case = make_case(random.Random(f"{seed}/{number}"), corpus)
            started = time.perf_counter()
            try:
                async with asyncio.timeout(30):
                    status = await send("127.0.0.1", port, case)
            except TimeoutError:
                status = "hang"
            slowest = max(slowest, (round(time.perf_counter() - started, 3), number, case.kind))
            statuses[str(status)] += 1
            kinds[case.kind.split(" ")[0]][str(status)] += 1
            if status == "hang" or (isinstance(status, int) and status >= 500 and status != 503):
                failures.append({"number": number, "kind": case.kind, "status": status})
            if number % 1000 == 0 and pid is not None:
                memory.append((number, psutil.Process(pid).memory_info().rss))

    await asyncio.gather(*[client() for _ in range(clients)])
    by_kind = {kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items())}
    report.update(requests=requests, seed=seed, statuses=dict(sorted(statuses.items())), by_kind=by_kind,
                  failures=failures[:50], slowest=slowest, memory_mib=[[n, round(b / 2**20, 1)] for n, b in memory])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--url")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    report: dict[str, Any] = {}
    started = time.perf_counter()
    if options.url:
        port = int(options.url.rsplit(":", 1)[1])
        asyncio.run(attack(port, options.requests, options.seed, options.clients, report, None))
    else:
        with booted() as service:
            port, pid = int(service.url.rsplit(":", 1)[1]), service.worker().pid
            asyncio.run(attack(port, options.requests, options.seed, options.clients, report, pid))
            report["same_worker"] = service.worker().pid == pid
            report["errors_logged"] = service.log.read_text().count('"level": "error"')
    report["seconds"] = round(time.perf_counter() - started, 1)
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 1 if report["failures"] or report.get("same_worker") is False or report.get("errors_logged") else 0


def booted() -> Any:
    """The service with a tiny artifact, small limits and no patience for slow bodies."""
    import contextlib
    import tempfile

    from artifacts import write_artifact

    @contextlib.contextmanager
    def manage() -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "artifact"
            write_artifact(folder)
            service: Running
            with running(folder, Path(scratch), GAZESEG_MAX_BYTES="2000000", GAZESEG_MAX_PIXELS="4000000",
                         GAZESEG_READ_SECONDS="0.5", GAZESEG_MAX_BATCH_BYTES="4000000", GAZESEG_BATCH_SECONDS="10",
                         GAZESEG_MAX_IMAGES="20") as service:
                yield service

    return manage()


if __name__ == "__main__":
    sys.exit(main())
