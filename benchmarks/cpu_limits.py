"""The service in a container's share of a large machine: threads counted, and its latency against the service outside.

    python benchmarks/cpu_limits.py --out benchmarks/results/cpu_limits.json      as root, on Linux; needs cc

Two services, one as it is and one in a CPU cgroup (version 1 or 2) of two CPUs on a machine that claims 64: a preloaded
library (pretend_cpus.c) says so to Python, the C++ runtime, OpenMP and OpenBLAS. Both take turns at the same load; the
last line is JSON. Ends with status 1 where the service inside has more threads than the one outside, or does not say
that it has two CPUs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from http_service import photographs  # noqa: E402
from load import closed_loop, request_of  # noqa: E402
from pod import CGROUPS  # noqa: E402
from serving import Running, running  # noqa: E402

CPUS, PRETENDED = 2, 64
_SLACK = 2  # threads that a pool makes when it happens to be busy
_PERIOD = 100_000  # microseconds, the kernel's own default


@contextlib.contextmanager
def share_of(cpus: int) -> Iterator[Callable[[], None]]:
    """A CPU cgroup with a quota of `cpus`; gives what a process calls to go in. Raises OSError where none can be made."""
    old = CGROUPS / "cpu"
    folder = (old if old.is_dir() else CGROUPS) / f"gazeseg-cpus-{os.getpid()}"
    folder.mkdir()
    try:
        if old.is_dir():
            (folder / "cpu.cfs_period_us").write_text(str(_PERIOD))
            (folder / "cpu.cfs_quota_us").write_text(str(cpus * _PERIOD))
        else:
            (folder / "cpu.max").write_text(f"{cpus * _PERIOD} {_PERIOD}")

        def go_in() -> None:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

        yield go_in
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """The group goes once its last process has been reaped, a moment after it ended."""
    for _ in range(100):
        with contextlib.suppress(OSError):
            return folder.rmdir()
        time.sleep(0.05)
    folder.rmdir()


def pretend(scratch: Path) -> dict[str, str]:
    """The environment in which a program finds `PRETENDED` CPUs."""
    library = scratch / "pretend_cpus.so"
    source = Path(__file__).with_name("pretend_cpus.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "PRETEND_CPUS": str(PRETENDED)}


def threads(service: Running) -> dict[str, int]:
    """Threads of the worker, and of all the service's processes together."""
    worker = service.worker()
    whole = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)]
    return {"worker": worker.num_threads(), "all_processes": sum(process.num_threads() for process in whole)}


def measure(services: dict[str, Running], clients: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Medians over the rounds, in which the services take turns."""
    requests = [request_of(data) for data in photographs()]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in services}
    for _ in range(rounds):
        for name, service in services.items():
            found[name].append(asyncio.run(closed_loop(service.port, requests, clients, seconds)).summary())
    report: dict[str, Any] = {}
    for name, service in services.items():
        card = httpx.get(service.url + "/v1/model").json()
        report[name] = {
            "cpus": card["cpus"],
            "threads_after_load": threads(service),
            **{
                figure: statistics.median(row[figure] for row in found[name])
                for figure in ("images_per_second", "p50_ms", "p99_ms")
            },
            "statuses": [row["statuses"] for row in found[name]],
        }
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, share_of(CPUS) as go_in:
        claims = pretend(Path(scratch))
        with running(None, Path(scratch)) as outside, running(None, Path(scratch), go_in, **claims) as inside:
            report: dict[str, Any] = {"quota_cpus": CPUS, "machine_claims_cpus": PRETENDED, "clients": options.clients}
            report.update(measure({"outside": outside, "inside": inside}, options.clients, options.rounds, options.seconds))
    report["p99_inside_over_outside"] = round(report["inside"]["p99_ms"] / report["outside"]["p99_ms"], 3)
    print(json.dumps(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    more = report["inside"]["threads_after_load"]["worker"] > report["outside"]["threads_after_load"]["worker"] + _SLACK
    return int(more or report["inside"]["cpus"]["available"] != CPUS)


if __name__ == "__main__":
    sys.exit(main())
