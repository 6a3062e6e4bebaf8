"""Help for the tests of the service: an app in this process, or the command in one of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
from starlette.testclient import TestClient

from gazeseg_serve.service.app import build
from gazeseg_serve.service.settings import Settings

PIXELS = np.random.default_rng(7).integers(0, 256, (48, 80, 3), dtype=np.uint8)


def encoded(suffix: str = ".png", pixels: np.ndarray = PIXELS) -> bytes:
    done, data = cv2.imencode(suffix, pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    assert done
    return data.tobytes()


def wait_until_ready(client: TestClient, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end, "the service did not become ready"
        time.sleep(0.02)


def serve(settings: Settings) -> TestClient:
    return TestClient(build(settings).to_asgi(is_main=True), raise_server_exceptions=False)


def problem(response: httpx.Response, status: int, code: str) -> dict[str, object]:
    """Check that the response is this problem document and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    return body


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def worker(self) -> psutil.Process:
        """The process that holds the engine."""
        return next(
            child
            for child in psutil.Process(self.process.pid).children(recursive=True)
            if "_bentoml_impl.worker.service" in " ".join(child.cmdline())
        )

    def logged(self, words: str, seconds: float = 30) -> str:
        """The log, once `words` are in it."""
        end = time.monotonic() + seconds
        while words not in (text := self.log.read_text()):
            assert time.monotonic() < end, f"never logged: {words}"
            time.sleep(0.01)
        return text

    def batches(self) -> dict[str, float]:
        """The batch-size histogram: the number of engine runs of at most so many images."""
        lines = httpx.get(self.url + "/metrics").text.splitlines()
        found = [line.rsplit(" ", 1) for line in lines if line.startswith("gazeseg_batch_size_bucket")]
        return {name.split('le="')[1].split('"')[0]: float(value) for name, value in found}

    def wait_until_ready(self, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if httpx.get(self.url + "/readyz", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("not ready in time: " + self.log.read_text())


@contextmanager
def running(folder: Path | None, scratch: Path, inside: Callable[[], None] | None = None, **settings: str) -> Iterator[Running]:
    """`gazeseg-serve serve` on a free port, ready; killed at the end if it still runs.

    folder: of the artifact; None: the package's own model. inside: called in the process before it starts.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = scratch / f"service-{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gazeseg_serve", "serve", *([str(folder)] if folder else []), "--port", str(port)],
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **settings},
            preexec_fn=inside,
        )
    service = Running(process, f"http://127.0.0.1:{port}", log)
    try:
        service.wait_until_ready()
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


def images(number: int) -> list[np.ndarray]:
    """Different images of different sizes, so that a mask given to the wrong request shows."""
    rng = np.random.default_rng(11)
    return [rng.integers(0, 256, (40 + 3 * i, 90 - 2 * i, 3), dtype=np.uint8) for i in range(number)]


def as_png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def many(*files: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """Form fields of one image file each."""
    return [("image", file) for file in files]
