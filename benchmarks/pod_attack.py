"""What two small pods' worth of ill will does to one: the default limits and the package's model in a pod's 2 GiB.

    python benchmarks/pod_attack.py --out benchmarks/results/pod_attack.json

One attack after the other, each against a fresh service: large legal files at once, files that make much of little, senders
who leave. Watched from outside: /livez, the memory, whether the same worker is there afterwards and a small image answered
meanwhile; then SIGTERM in the middle of the attack. Ends with status 1 where /livez took over a second, the worker died or
SIGTERM was not obeyed within the grace time.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

from dicoms import dicom_file  # noqa: E402
from fuzz_hostile import flat  # noqa: E402
from fuzz_requests import form  # noqa: E402
from pod import Pod, watched  # noqa: E402
from serving import Running, running  # noqa: E402

SENDERS = 16
GRACE = 35.0  # seconds, the default of GAZESEG_GRACE_SECONDS
SMALL = ROOT / "service" / "page" / "sample1.jpg"
RAW, FORM = "application/octet-stream", "multipart/form-data; boundary=edge"


@functools.cache
def large(kind: str, mode: str) -> bytes:
    return flat(kind, 5000, 8000, mode)


def noise() -> bytes:
    """3.9 megapixels whose overlay and polygons are large."""
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((1980, 1980), 0).save(file, "JPEG", quality=20)
    return file.getvalue()


def radiograph() -> bytes:
    return dicom_file(1, np.arange(15_000_000, dtype=np.uint32).astype(np.uint16).reshape(3000, 5000))


def slices() -> bytes:
    pixels = np.zeros((512, 512), np.uint16)
    return form([("image", str(i), dicom_file(i, pixels)) for i in range(1, 65)])


# Path, body and content type of what every sender of an attack sends.
ATTACKS: dict[str, Callable[[], tuple[str, bytes, str]]] = {
    "40 megapixels, overlay": lambda: ("/v1/segment?output=overlay", large("PNG", "RGB"), RAW),
    "40 megapixels with alpha, npz": lambda: ("/v1/segment?output=npz", large("PNG", "RGBA"), RAW),
    "40 megapixels of 32 bit": lambda: ("/v1/segment?output=json", large("TIFF", "I"), RAW),
    "noise, json of a batch": lambda: (
        "/v1/segment/batch?output=json&threshold=0.01", form([("image", str(i), noise()) for i in range(8)]), FORM,
    ),
    "a series of 64 slices, dicom-seg": lambda: ("/v1/segment/batch?output=dicom-seg&force=true", slices(), FORM),
    "bodies of 30 MiB": lambda: ("/v1/segment?output=overlay&force=true", radiograph(), "application/dicom"),
    "40,000 frames of one pixel": lambda: (
        "/v1/segment?output=dicom-seg&force=true",
        dicom_file(1, np.zeros((1, 1), np.uint16), NumberOfFrames=40_000, PixelData=bytes(80_000)), "application/dicom",
    ),
}  # fmt: skip


def attack(service: Running, path: str, body: bytes, kind: str, leaves: bool) -> collections.Counter[str]:
    """SENDERS at once send the request; the statuses that came back."""

    def send(_: int) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=120)
        with contextlib.closing(connection):
            try:
                connection.request("POST", path, body, {"Content-Type": kind})
                if leaves:
                    return "left"
                response = connection.getresponse()
                while response.read(2**20):
                    pass
            except (OSError, http.client.HTTPException) as error:
                return type(error).__name__
            return str(response.status)

    with ThreadPoolExecutor(SENDERS) as pool:
        return collections.Counter(pool.map(send, range(SENDERS)))


def bystander(service: Running, over: threading.Event, seen: list[float]) -> None:
    """A client with a small image, twice a second; the seconds that each took, inf for no answer."""
    body = SMALL.read_bytes()
    while not over.wait(0.5):
        started = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
        with contextlib.closing(connection):
            try:
                connection.request("POST", "/v1/segment", body, {"Content-Type": "image/jpeg"})
                right = connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                right = False
        seen.append(time.perf_counter() - started if right else float("inf"))


def try_out(name: str, scratch: Path) -> dict[str, Any]:
    path, body, kind = ATTACKS[name]()
    report: dict[str, Any] = {"attack": name, "kib_each": len(body) >> 10, "senders": SENDERS}
    with contextlib.closing(Pod()) as pod, running(None, scratch, pod.inside) as service:
        worker, over, seen = service.worker().pid, threading.Event(), []
        beside = threading.Thread(target=bystander, args=(service, over, seen))
        with watched(service.port, service.process.pid, pod) as watch:
            beside.start()
            report["statuses"] = dict(attack(service, path, body, kind, leaves=False))
            attack(service, path, body, kind, leaves=True)
            over.set()
            beside.join()
        report.update(watch, same_worker=service.worker().pid == worker)
        report["small_image_worst_seconds"] = round(max(seen, default=0.0), 3)
        threading.Thread(target=attack, args=(service, path, body, kind, False), daemon=True).start()
        until_busy(service.port)
        service.process.send_signal(signal.SIGTERM)
        started = time.perf_counter()
        try:
            report["sigterm_status"] = service.process.wait(GRACE + 5)
        except subprocess.TimeoutExpired:
            report["sigterm_status"] = "not obeyed"
        report["sigterm_seconds"] = round(time.perf_counter() - started, 1)
    return report


def until_busy(port: int) -> None:
    """Until a request is in the house."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as plug:
            plug.sendall(b"GET /metrics HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            found = b""
            while piece := plug.recv(65536):
                found += piece
        if b"gazeseg_in_flight 0.0" not in found:
            return
        time.sleep(0.02)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="a part of the attack's name")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    reports = []
    for name in ATTACKS:
        if options.only in (None, "") or options.only in name:
            with tempfile.TemporaryDirectory() as scratch:
                reports.append(try_out(name, Path(scratch)))
            print(json.dumps(reports[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(reports, indent=1) + "\n")
    return int(any(
        report["livez_worst_seconds"] > 1 or not report["same_worker"] or report["sigterm_status"] != 0 for report in reports
    ))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
