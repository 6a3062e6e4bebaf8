"""The same images through both doors: files to /v1/segment, prepared tensors to /v2/models/default/infer.

    python benchmarks/doors.py --rounds 5 --seconds 5

One service with the package's model, 640 x 480 JPEGs and what decoding and resizing makes of them; the doors take turns, every
answer's status is counted. The engine alone stands beside. Medians over the rounds; the last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from http_service import photographs  # noqa: E402
from load import closed_loop, request_of  # noqa: E402
from serving import running  # noqa: E402

from gazeseg_serve.default_model import default_artifact  # noqa: E402
from gazeseg_serve.imaging import decode_image  # noqa: E402
from gazeseg_serve.predictor import Predictor  # noqa: E402

CLIENTS = (1, 16)
FIGURES = ("images_per_second", "p50_ms", "p99_ms")


def tensor_request(pixels: np.ndarray) -> bytes:
    """A request for `/v2/` with one prepared image as binary data, and a binary answer."""
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": [1, *pixels.shape],
        "parameters": {"binary_data_size": pixels.nbytes},
    }
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    request = request_of(text + pixels.tobytes(), "/v2/models/default/infer", "application/octet-stream")
    return request.replace(b"\r\n", b"\r\nInference-Header-Content-Length: %d\r\n" % len(text), 1)


def engine_alone(predictor: Predictor, images: list[np.ndarray], seconds: float) -> float:
    """Median milliseconds of a run of one image."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        predictor.run([images[len(times) % len(images)]])
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    predictor = Predictor.open(default_artifact(), "cpu")
    files = photographs()
    images = [predictor.prepare(decode_image(data)) for data in files]
    doors = {"v1": [request_of(data) for data in files], "v2": [tensor_request(pixels) for pixels in images]}
    rows: dict[str, list[dict[str, Any]]] = {f"{door}, {count} clients": [] for door in doors for count in CLIENTS}
    alone = [engine_alone(predictor, images, min(2.0, options.seconds)) for _ in range(options.rounds)]
    with tempfile.TemporaryDirectory() as scratch, running(None, Path(scratch)) as service:
        for _ in range(options.rounds):
            for count in CLIENTS:
                for door, requests in doors.items():
                    seen = asyncio.run(closed_loop(service.port, requests, count, options.seconds)).summary()
                    rows[f"{door}, {count} clients"].append(seen)
    report: dict[str, Any] = {"engine_alone_ms": round(statistics.median(alone), 2)}
    for name, seen in rows.items():
        report[name] = {figure: round(statistics.median(row[figure] for row in seen), 2) for figure in FIGURES}
        report[name]["not_200"] = sum(count for row in seen for status, count in row["statuses"].items() if status != "200")
    print(json.dumps(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
