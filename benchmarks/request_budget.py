"""Where a request's time goes, part by part, beside its floor; and the service against a plain server with the same files.

    python -W ignore benchmarks/request_budget.py --out benchmarks/results/request_budget.json       under three minutes

The parts are measured hot, CPU of one thread: what any server must do with a 640 x 480 JPEG (decode, shrink, run, enlarge and
cut, write the PNG), and what this one does beside (hash for the ETag, parse a form, the layers of HTTP). Then come rounds of
the service with the package's model for this machine, and of plain FastAPI and ONNX Runtime (`benchmarks/peers`) with the fp32
and with the same int8 file, in turn; medians over the rounds; ratios in one run. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import psutil

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from capacity_parts import http_cost  # noqa: E402
from http_service import PORT, _median, engine_alone, masks, photographs, started  # noqa: E402
from load import closed_loop, request_of  # noqa: E402
from starlette.requests import Request  # noqa: E402

from gazeseg_serve import cpus  # noqa: E402
from gazeseg_serve.contract import Artifact  # noqa: E402
from gazeseg_serve.default_model import DEFAULT_MODEL, INT8_MODEL, default_artifact  # noqa: E402
from gazeseg_serve.imaging import decode_image  # noqa: E402
from gazeseg_serve.pixels import log_odds, resize_map  # noqa: E402
from gazeseg_serve.png import encode_png  # noqa: E402
from gazeseg_serve.predictor import Predictor  # noqa: E402

FLOOR = ("decode", "shrink", "engine", "enlarge_and_cut", "png")  # what no server of these parts can leave out
CLIENTS = 16


def hot(work: Callable[[], object], seconds: float) -> float:
    """Median CPU milliseconds of a call in this thread, over calls for so many seconds."""
    work()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        started_at = time.thread_time()
        work()
        times.append(time.thread_time() - started_at)
    return round(1000 * statistics.median(times), 4)


def parts(artifact: Path, file: bytes, seconds: float) -> dict[str, float]:
    """Each part by itself. The engine has one thread, as it has in the service under load."""
    cv2.setNumThreads(1)
    predictor = Predictor.open(artifact, "cpu", threads=1)
    image = decode_image(file)
    prepared = predictor.prepare(image)
    outputs = predictor.run([prepared])
    scores = log_odds(outputs.probability[0])[0]
    mask = (resize_map(scores, image.shape[:2]) >= 0).view("uint8")
    works: dict[str, Callable[[], object]] = {
        "decode": lambda: decode_image(file),
        "shrink": lambda: predictor.prepare(image),
        "engine": lambda: predictor.run([prepared]),
        "enlarge_and_cut": lambda: predictor.finish(outputs, 0, image.shape[:2], None).mask(),
        "png": lambda: encode_png(mask, bilevel=True),
        "hash": lambda: hashlib.sha256(file).hexdigest(),
        "parse_a_form": lambda: asyncio.run(_form(file)),
        "an_empty_event_loop": lambda: asyncio.run(asyncio.sleep(0)),  # which parse_a_form has in it
    }
    return {name: hot(work, seconds) for name, work in works.items()}


async def _form(file: bytes) -> None:
    """A multipart body with `file`, parsed as the service parses it."""
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    sent = [{"type": "http.request", "body": head + file + b"\r\n--b--\r\n", "more_body": False}]

    async def receive() -> Any:
        return sent.pop()

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"multipart/form-data; boundary=b")]}
    async with Request(scope, receive).form(max_files=1) as form:
        assert await form["image"].read() == file  # type: ignore[union-attr]


def served(name: str, artifact: Path, files: list[bytes], seconds: float, scratch: Path) -> dict[str, Any]:
    """One server in one round: a lone client, then many; and the CPU that all its processes take a request."""
    requests, expected = [request_of(file) for file in files], masks(artifact, files)

    def right(number: int, body: bytes) -> bool:
        return body == expected[number]

    found: dict[str, Any] = {}
    with started(name, artifact, scratch / f"{name}.log"):
        asyncio.run(closed_loop(PORT, requests, 4, min(1.0, seconds)))
        found["at_1"] = asyncio.run(closed_loop(PORT, requests, 1, seconds / 2, right)).summary()
        before = _cpu_seconds()
        found["at_16"] = asyncio.run(closed_loop(PORT, requests, CLIENTS, seconds, right)).summary()
        done = sum(found["at_16"]["statuses"].values())
        found["cpu_ms_a_request"] = round(1000 * (_cpu_seconds() - before) / max(1, done), 3)
        if name == "service":
            worker = max(psutil.Process().children(recursive=True), key=lambda process: process.memory_info().rss)
            cost = http_cost(PORT, worker, files, min(1.0, seconds))
            found["http_ms"], found["generator_ms"] = (round(1000 * cost[key], 3) for key in ("http", "generator"))
    return found


def _cpu_seconds() -> float:
    """Of all processes that this one started."""
    return sum(sum(process.cpu_times()[:2]) for process in psutil.Process().children(recursive=True))


def measure(rounds: int, seconds: float, part_seconds: float, scratch: Path) -> dict[str, Any]:
    files, own = photographs(), default_artifact("cpu")
    found = parts(own, files[0], part_seconds)
    servers = {
        "service": ("service", own),
        "plain_fp32": ("onnxruntime", DEFAULT_MODEL),
        "plain_int8": ("onnxruntime", INT8_MODEL),
    }
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("engine", *servers)}
    for _ in range(rounds):
        rows["engine"].append(engine_alone(own, seconds))
        for name, (kind, artifact) in servers.items():
            rows[name].append(served(kind, artifact, files, seconds, scratch))
    medians = {name: _median(row) for name, row in rows.items()}
    floor = round(sum(found[part] for part in FLOOR), 3)
    return {
        "model": Artifact.load(own).id,
        "precision": Artifact.load(own).precision,
        "cpus": cpus.available(),
        "rounds": rounds,
        "seconds": seconds,
        "parts_ms": found,
        "floor_ms": floor,
        "service_cpu_ms": medians["service"]["cpu_ms_a_request"],
        "over_the_floor_ms": round(medians["service"]["cpu_ms_a_request"] - floor, 3),
        "http_ms": medians["service"]["http_ms"],
        "ratios": ratios(medians),
        "medians": medians,
    }


def ratios(medians: dict[str, Any]) -> dict[str, float]:
    """What the service is held to: at least 1.5 and 1.05 times the images, p99 of 1 at the most, p50 of 1.5 at the most."""
    service, found = medians["service"], {}
    for name in ("plain_fp32", "plain_int8"):
        peer = medians[name]["at_16"]
        found[f"images_to_{name}"] = service["at_16"]["images_per_second"] / peer["images_per_second"]
        found[f"p99_to_{name}"] = service["at_16"]["p99_ms"] / peer["p99_ms"]
    found["p50_at_1_to_the_engine"] = service["at_1"]["p50_ms"] / medians["engine"]["p50_ms"]
    found["share_of_the_engine"] = service["at_16"]["images_per_second"] / medians["engine"]["images_per_second"]
    return {name: round(value, 3) for name, value in found.items()}


def lines(report: dict[str, Any]) -> list[str]:
    table = ["| part | CPU ms |", "|---|---|", *(f"| {name} | {value} |" for name, value in report["parts_ms"].items())]
    rest = [f"| {name} | {report[name]} |" for name in ("floor_ms", "service_cpu_ms", "over_the_floor_ms", "http_ms")]
    return [*table, *rest, "", *(f"{name}: {value}" for name, value in report["ratios"].items())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of each server at 16 clients; half of it at one")
    parser.add_argument("--part-seconds", type=float, default=0.5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(options.rounds, options.seconds, options.part_seconds, Path(scratch))
    print("\n".join(lines(report)))
    print(json.dumps(report))
    if options.out:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
