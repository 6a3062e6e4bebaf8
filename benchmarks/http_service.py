"""The service under load, against its engine alone and against two plain servers, on the same cores in the same run.

    python benchmarks/http_service.py --out benchmarks/results/http_service.json
    python benchmarks/http_service.py --artifact artifacts/polyps --rounds 5
    python benchmarks/http_service.py --student 32 --servers service       a network of more work an image, random weights

Rounds are interleaved, and medians over them reported; the paper's ensemble, which takes a second an image, is in the first
round alone. Images: 640 x 480 JPEG, made up. The generator runs on the same
cores; its share is the same for all servers.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from load import closed_loop, exchange, request_of  # noqa: E402

from gazeseg_serve.contract import Artifact  # noqa: E402
from gazeseg_serve.default_model import default_artifact  # noqa: E402
from gazeseg_serve.imaging import decode_image  # noqa: E402
from gazeseg_serve.outputs import render  # noqa: E402
from gazeseg_serve.predictor import Predictor  # noqa: E402

PORT = 3901


def photographs(number: int = 8, size: tuple[int, int] = (640, 480)) -> list[bytes]:
    """Made-up JPEGs of `size` = (width, height), 54 KB at 640 x 480, as endoscopes make them: smooth, with a little noise."""
    import cv2

    rng = np.random.default_rng(3)
    files = []
    for _ in range(number):
        field = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(field + rng.normal(0, 3, field.shape), 0, 255).astype(np.uint8)
        files.append(cv2.imencode(".jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return files


def engine_alone(artifact: Path, seconds: float) -> dict[str, Any]:
    """Images a second of the engine in a process of its own with nothing beside it, at its best batch size."""
    code = f"""
import json, time, numpy as np
from gazeseg_serve.predictor import Predictor
p = Predictor.open({str(artifact)!r}, "cpu")
s, c = p.spec.size, p.spec.channels
rng = np.random.default_rng(0)
out = {{}}
for batch in (1, 2, 4, 8):
    x = rng.integers(0, 256, (batch, s, s, c)).astype(p.spec.dtype)
    for _ in range(3): p.engine.run(x)
    times, end = [], time.perf_counter() + {seconds / 4}
    while time.perf_counter() < end:
        t = time.perf_counter(); p.engine.run(x); times.append(time.perf_counter() - t)
    speed = round(batch * len(times) / sum(times), 1)
    out[batch] = dict(images_per_second=speed, p50_ms=round(float(np.median(times)) * 1000, 3))
print(json.dumps(out))
"""
    by_batch = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    best = max(by_batch.values(), key=lambda row: row["images_per_second"])
    return {"images_per_second": best["images_per_second"], "p50_ms": by_batch["1"]["p50_ms"], "by_batch": by_batch}


@contextlib.contextmanager
def started(name: str, artifact: Path, log: Path, **settings: str) -> Iterator[None]:
    """One of the servers on PORT, ready."""
    commands = {
        "service": [sys.executable, "-m", "gazeseg_serve", "serve", str(artifact), "--port", str(PORT)],
        "onnxruntime": [
            sys.executable,
            "-m",
            "uvicorn",
            "peers.onnxruntime_server:app",
            "--port",
            str(PORT),
            "--log-level",
            "warning",
        ],
        "torch": [sys.executable, "-m", "uvicorn", "peers.torch_server:app", "--port", str(PORT), "--log-level", "warning"],
    }
    environment = {**os.environ, "ARTIFACT": str(artifact), **settings}
    with log.open("w") as out:
        process = subprocess.Popen(commands[name], cwd=HERE, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{PORT}/readyz").status_code == 200:
                    break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(60)


async def timings(requests: list[bytes], number: int) -> dict[str, float]:
    """Medians of the service's own Server-Timing at one client, in milliseconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    rows: list[dict[str, float]] = []
    for i in range(number):
        begun = time.perf_counter()
        _, headers, _ = await exchange(reader, writer, requests[i % len(requests)])
        outside = (time.perf_counter() - begun) * 1000
        steps = dict(part.strip().split(";dur=") for part in headers[b"server-timing"].decode().split(",") if "dur" in part)
        rows.append({name: float(value) for name, value in steps.items()} | {"at_the_client": outside})
    writer.close()
    return {name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]}


def masks(artifact: Path, files: list[bytes]) -> list[bytes]:
    predictor = Predictor.open(artifact, "cpu")
    assert predictor.artifact is not None
    return [
        render(predictor.predict(decode_image(file)), predictor.artifact, "png", predictor.artifact.threshold).content
        for file in files
    ]


def student(width: int, folder: Path) -> Path:
    """An artifact of one network of `width` with random weights, 160 px: as fast as a trained one."""
    from gazeseg_serve.contract import COLOURS, MODEL_FILE, InputSpec, graph_inputs, graph_outputs
    from gazeseg_serve.export.fuse import FusedEnsemble
    from gazeseg_serve.export.onnx_graph import write_onnx
    from gazeseg_serve.files import sha256_file
    from gazeseg_serve.training.networks.architecture import Architecture
    from gazeseg_serve.training.networks.ensemble import Ensemble

    folder.mkdir()
    spec = InputSpec(size=160, classes=("polyp",))
    network = Ensemble(Architecture(width, "batch", stride=2), spec, seeds=(0,)).eval()
    write_onnx(FusedEnsemble(network), spec, False, folder / MODEL_FILE)
    digest = sha256_file(folder / MODEL_FILE)
    Artifact(
        id=digest,
        strategy="fuse",
        precision="fp32",
        input=spec,
        inputs=graph_inputs(spec),
        outputs=graph_outputs(spec, False),
        colours=COLOURS[:1],
        threshold=0.5,
        files={MODEL_FILE: digest},
        parity={},
        provenance={"made by": "benchmarks/http_service.py"},
    ).save(folder)
    return folder


def overload(requests: list[bytes], seconds: float, right: Any) -> dict[str, Any]:
    """16 clients at a service that lets two in at once; who is refused comes back after a quarter of a second."""
    return asyncio.run(closed_loop(PORT, requests, 16, seconds, right, pause_on_refusal=0.25)).summary()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, help="default: the model of the package")
    parser.add_argument("--student", type=int, metavar="WIDTH", help="one network of this width in blocks of 2 instead")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--servers", default="service,onnxruntime,torch")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        artifact = options.artifact or default_artifact()
        if options.student:
            artifact = student(options.student, Path(scratch) / "student")
        report = measure(artifact, options.servers.split(","), options.rounds, options.seconds, Path(scratch))
    print(json.dumps(report, indent=2))
    if options.out:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


def measure(artifact: Path, servers: list[str], rounds: int, seconds: float, scratch: Path) -> dict[str, Any]:
    files = photographs()
    requests, expected = [request_of(file) for file in files], masks(artifact, files)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ("engine", *servers)}
    for turn in range(rounds):
        rows["engine"].append(engine_alone(artifact, seconds))
        for name in servers if turn == 0 else [name for name in servers if name != "torch"]:
            # The paper's ensemble is another network, so its masks are its own.
            right = None if name == "torch" else lambda number, body: body == expected[number]
            with started(name, artifact, scratch / f"{name}.log"):
                asyncio.run(closed_loop(PORT, requests, 4, min(2.0, seconds)))
                row = {
                    f"at_{clients}": asyncio.run(closed_loop(PORT, requests, clients, seconds, right)).summary()
                    for clients in (1, 16)
                }
                if name == "service":
                    row["steps_ms"] = asyncio.run(timings(requests, 200))
                rows[name].append(row)
        if "service" in servers:
            with started("service", artifact, scratch / "service.log", GAZESEG_MAX_QUEUE="2"):
                rows["service"][-1]["overload"] = overload(requests, seconds, lambda number, body: body == expected[number])
    medians = {name: _median(found) for name, found in rows.items()}
    return {
        "artifact": Artifact.load(artifact).id,
        "ratios": ratios(medians),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()},
        "rounds": rounds,
        "seconds": seconds,
        "medians": medians,
        "all": rows,
    }


def ratios(medians: dict[str, Any]) -> dict[str, float]:
    """What the service is held to, from the medians of the servers that ran."""
    engine, service = medians["engine"], medians.get("service")
    if service is None:
        return {}
    speed, lone = service["at_16"]["images_per_second"], service["at_1"]
    found = {
        "share_of_the_engine": speed / engine["images_per_second"],
        "p50_over_the_engine_ms": lone["p50_ms"] - engine["p50_ms"],
        "p99_under_overload_to_unloaded": service["overload"]["p99_ms"] / lone["p99_ms"],
    }
    for name in set(medians) - {"engine", "service"}:
        peer = medians[name]["at_16"]
        found[f"times_{name}"] = speed / peer["images_per_second"]
        found[f"p99_to_{name}"] = service["at_16"]["p99_ms"] / peer["p99_ms"]
    return {name: round(value, 3) for name, value in sorted(found.items())}


def _median(rows: list[Any]) -> Any:
    """The same structure with the median of every number."""
    if isinstance(rows[0], dict):
        return {key: _median([row[key] for row in rows if key in row]) for key in rows[0]}
    return round(statistics.median(rows), 3)


def _cpu() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
