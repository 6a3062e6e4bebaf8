"""How many cores for how many requests a second: a model from measured parts, checked against the measured service.

    python benchmarks/capacity.py --out benchmarks/results/capacity.json       measure, check, print the tables
    python benchmarks/capacity.py predict --out FILE --p99-ms 500              other tables of a file that was measured
    python -W ignore benchmarks/capacity.py workers --out benchmarks/results/workers.json       one process against two

`measure` and `workers` take about two minutes each and need the machine to themselves; `predict` does not. Images: JPEG,
640 x 480 and, for `workers`, 1920 x 1080, made up. The generator runs on the same cores; the model is told what it costs,
and the tables are for a generator elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
import load  # noqa: E402
from capacity_model import Service, arrivals, closed_loop, highest_rate, open_loop  # noqa: E402
from capacity_parts import http_cost  # noqa: E402
from http_service import masks, photographs  # noqa: E402
from serving import running  # noqa: E402

from gazeseg_serve.contract import Artifact  # noqa: E402
from gazeseg_serve.default_model import default_artifact  # noqa: E402

CLIENTS, SHARES = 16, (0.3, 0.6, 0.8)
HOURS_A_DAY = 24


def measure(artifact: Path, seconds: float, scratch: Path) -> dict[str, Any]:
    """The parts, then the service itself: alone, at its limit, and under requests that come by chance at shares of it."""
    command = [sys.executable, str(HERE / "capacity_parts.py"), str(artifact)]
    parts = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    files = photographs()
    requests, expected = [load.request_of(file) for file in files], masks(artifact, files)

    def right(number: int, body: bytes) -> bool:
        return body == expected[number]

    with running(artifact, scratch) as service:
        port = int(service.url.rpartition(":")[2])
        asyncio.run(load.closed_loop(port, requests, 4, 2))
        parts |= http_cost(port, service.worker(), files, 3)
        alone, limit = (
            asyncio.run(load.closed_loop(port, requests, clients, seconds / 2, right)).summary() for clients in (1, CLIENTS)
        )
        offered = []
        for turn, share in enumerate(SHARES):
            row = {"share": share, "rate": share * limit["images_per_second"], "seconds": seconds, "seed": turn}
            found = asyncio.run(load.open_loop(port, requests, arrivals(row["rate"], seconds, turn).tolist(), right))
            offered.append(row | {"measured": found.summary()})
    return {
        "artifact": Artifact.load(artifact).id,
        "machine": {"cores": os.cpu_count(), "processor": platform.machine()},
        "parts": parts,
        "alone": {"measured": alone},
        "limit": {"measured": limit},
        "offered": offered,
    }


def workers(artifact: Path, seconds: float, scratch: Path, clients: tuple[int, ...] = (1, 4, 16, 64)) -> list[dict[str, Any]]:
    """Throughput and latency by number of clients, of one process and of two, for small images and for large ones."""
    rows = []
    for size in ((640, 480), (1920, 1080)):
        files = photographs(8, size)
        requests, expected = [load.request_of(file) for file in files], masks(artifact, files)
        for processes in (1, 2):
            settings = {"GAZESEG_WORKERS": str(processes), "GAZESEG_MAX_QUEUE": str(2 * max(clients))}
            with running(artifact, scratch, **settings) as service:
                asyncio.run(load.closed_loop(service.port, requests, 8, 1))
                for number in clients:
                    found = asyncio.run(
                        load.closed_loop(service.port, requests, number, seconds, lambda i, body, e=expected: body == e[i])
                    )
                    rows.append({"size": list(size), "workers": processes, **found.summary()})
    return rows


def worker_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table, in Markdown: each number of clients once, one process beside two."""
    found = ["| image | clients | images/s: 1, 2 processes | p50 ms | p99 ms |", "|---|---|---|---|---|"]
    for one in (row for row in rows if row["workers"] == 1):
        two = next(r for r in rows if r["workers"] == 2 and (r["size"], r["clients"]) == (one["size"], one["clients"]))
        pairs = [f"{one[key]}, {two[key]}" for key in ("images_per_second", "p50_ms", "p99_ms")]
        found.append(f"| {one['size'][0]} x {one['size'][1]} | {one['clients']} | {' | '.join(pairs)} |")
    return found


def check(report: dict[str, Any]) -> None:
    """Put beside every measured load what the model says of it, the generator on the same cores as it was.

    `contention` is fitted to the service's limit alone; what the parts say without it stands beside. The offered loads have
    no part in it: there the model predicts.
    """
    bare = Service(**report["parts"])
    unfitted = closed_loop(bare, CLIENTS, 4000).summary()["images_per_second"]
    report["contention"] = round(max(1.0, unfitted / report["limit"]["measured"]["images_per_second"]), 3)
    report["limit_without_contention"] = unfitted
    service = replace(bare, contention=report["contention"])
    _compare(report["alone"], closed_loop(service, 1, 2000).summary())
    _compare(report["limit"], closed_loop(service, CLIENTS, 4000).summary())
    for row in report["offered"]:
        _compare(row, open_loop(service, arrivals(row["rate"], row["seconds"], row["seed"])).summary())


def _compare(row: dict[str, Any], predicted: dict[str, float]) -> None:
    row["predicted"] = predicted
    row["error_percent"] = {
        name: round(100 * (predicted[name] / row["measured"][name] - 1), 1)
        for name in ("images_per_second", "p50_ms", "p99_ms")
    }


def plan(
    parts: dict[str, Any],
    contention: float,
    rates: list[float],
    p99_ms: list[float],
    headroom: float,
    price: float | None,
    requests: int = 20000,
) -> list[dict[str, float]]:
    """Services of the measured size for each rate and p99, at `headroom` of the highest rate that the model allows them."""
    service = Service(**{**parts, "generator": 0.0, "contention": contention})
    rows = []
    for target in p99_ms:
        highest = highest_rate(service, target / 1000, requests)
        for rate in rates if highest else []:
            number = math.ceil(rate / (headroom * highest))
            hours = number * service.cores * HOURS_A_DAY
            row = {
                "p99_ms": target,
                "highest_rate": round(highest, 1),
                "rate": rate,
                "services": number,
                "cores": number * service.cores,
                "core_hours_a_day": hours,
                "core_hours_a_million_images": round(hours / (rate * 3600 * HOURS_A_DAY) * 1e6, 1),
            }
            rows.append(row if price is None else row | {"cost_a_day": round(hours * price, 2)})
    return rows


def lines(report: dict[str, Any]) -> list[str]:
    """The tables, in Markdown."""
    parts = report["parts"]
    batches = ", ".join(f"{1000 * seconds:.1f}" for seconds in parts["batch_seconds"])
    told = ", ".join(f"{name} {1000 * parts[name]:.2f}" for name in ("http", "decode", "encode", "generator"))
    found = [
        f"{parts['cores']} cores; ms a batch of 1, 2, ...: {batches}; CPU ms a request: {told}; "
        f"contention {report['contention']} (the limit without it: {report['limit_without_contention']})",
        "",
        "| load | images/s | p50 ms | p99 ms | error of images/s, p50, p99 |",
        "|---|---|---|---|---|",
    ]
    loads = [("1 client", report["alone"]), (f"{CLIENTS} clients", report["limit"])]
    loads += [(f"{100 * row['share']:.0f} % of it, by chance", row) for row in report["offered"]]
    for name, row in loads:
        pairs = [f"{row['measured'][key]} / {row['predicted'][key]}" for key in ("images_per_second", "p50_ms", "p99_ms")]
        found.append(f"| {name} | {' | '.join(pairs)} | {', '.join(f'{e:+.1f} %' for e in row['error_percent'].values())} |")
    names = {
        "p99_ms": "p99 ms",
        "highest_rate": "highest rate of one",
        "rate": "requests/s",
        "services": "services",
        "cores": "cores",
        "core_hours_a_day": "core-hours a day",
        "core_hours_a_million_images": "core-hours a million images",
        "cost_a_day": "cost a day",
    }
    rows = report["plan"]
    if rows:
        found += ["", f"| {' | '.join(names[key] for key in rows[0])} |", "|---" * len(rows[0]) + "|"]
        found += [f"| {' | '.join(f'{value:g}' for value in row.values())} |" for row in rows]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", nargs="?", choices=("all", "measure", "predict", "workers"), default="all")
    parser.add_argument("--artifact", type=Path, help="default: the model of the package")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file; predict reads it, too")
    parser.add_argument("--seconds", type=float, default=18, help="of each offered load")
    parser.add_argument("--rates", type=float, nargs="+", default=[1, 10, 50, 100, 500], help="requests a second")
    parser.add_argument("--p99-ms", type=float, nargs="+", default=[100, 250])
    parser.add_argument("--headroom", type=float, default=0.8, help="the part of the highest rate that is planned with")
    parser.add_argument("--price", type=float, help="of a core for an hour; adds a column")
    parser.add_argument("--load-seconds", type=float, default=3.5, help="of each load of `workers`")
    options = parser.parse_args()
    if options.step == "workers":
        with tempfile.TemporaryDirectory() as scratch:
            rows = workers(options.artifact or default_artifact("cpu"), options.load_seconds, Path(scratch))
        print("\n".join(worker_lines(rows)))
        print(json.dumps(rows))
        options.out.write_text(json.dumps(rows, indent=2) + "\n")
        return
    if options.step == "predict":
        report = json.loads(options.out.read_text())
    else:
        with tempfile.TemporaryDirectory() as scratch:
            report = measure(options.artifact or default_artifact("cpu"), options.seconds, Path(scratch))
    if options.step != "measure":
        check(report)
        report["plan"] = plan(
            report["parts"], report["contention"], options.rates, options.p99_ms, options.headroom, options.price
        )
        print("\n".join(lines(report)))
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
