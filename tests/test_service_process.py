"""The service as a process of its own: started by the command, loaded, stopped and killed."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx
import numpy as np
import psutil
import pytest
from artifacts import write_artifact
from PIL import Image

from gazeseg_serve.predictor import Predictor

pytest.importorskip("bentoml")


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    url: str
    log: Path

    def worker(self) -> psutil.Process:
        """The process that holds the engine."""
        return next(child for child in psutil.Process(self.process.pid).children(recursive=True)
                    if "_bentoml_impl.worker.service" in " ".join(child.cmdline()))

    def batches(self) -> dict[str, float]:
        """The batch-size histogram: the number of engine runs of at most so many images."""
        lines = httpx.get(self.url + "/metrics").text.splitlines()
        found = [line.rsplit(" ", 1) for line in lines if line.startswith("gazeseg_batch_size_bucket")]
        return {name.split('le="')[1].split('"')[0]: float(value) for name, value in found}

    def wait_until_ready(self, seconds: float = 60) -> None:
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
def running(folder: Path, scratch: Path, **settings: str) -> Iterator[Running]:
    """`gazeseg-serve serve` on a free port, ready; killed at the end if it still runs."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = scratch / f"service-{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gazeseg_serve", "serve", str(folder), "--port", str(port)],
            stdout=out, stderr=subprocess.STDOUT, text=True, env={**os.environ, **settings})
    service = Running(process, f"http://127.0.0.1:{port}", log)
    try:
        service.wait_until_ready()
        yield service
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(folder, tmp_path_factory.mktemp("service")) as service:
        yield service


def images(number: int) -> list[np.ndarray]:
    """Different images of different sizes, so that a mask given to the wrong request shows."""
    rng = np.random.default_rng(11)
    return [rng.integers(0, 256, (40 + 3 * i, 90 - 2 * i, 3), dtype=np.uint8) for i in range(number)]


def as_png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def test_32_at_once_are_batched_and_everyone_gets_their_own_mask(service: Running, folder: Path) -> None:
    pictures = images(32)
    predictor = Predictor.open(folder, "cpu")
    expected = [predictor.predict(picture).mask(0.5).astype(bool) for picture in pictures]
    before = service.batches()
    with httpx.Client(limits=httpx.Limits(max_connections=32), timeout=30) as client, ThreadPoolExecutor(32) as pool:
        for _ in range(3):
            answers = list(pool.map(
                lambda picture: client.post(service.url + "/v1/segment", files={"image": as_png(picture)}), pictures))
            for answer, mask in zip(answers, expected, strict=True):
                assert answer.status_code == 200
                np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), mask)
    after = service.batches()
    of_one, runs = (after[size] - before.get(size, 0) for size in ("1.0", "+Inf"))
    assert runs > of_one, "no engine run held more than one image"
    assert runs < 96


def test_the_worker_holds_no_torch(service: Running) -> None:
    maps = Path(f"/proc/{service.worker().pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert "onnxruntime" in maps.read_text()
    assert "libtorch" not in maps.read_text()


def test_logs_are_json_and_hold_the_request_id_but_no_file_name(service: Running) -> None:
    httpx.post(service.url + "/v1/segment", headers={"X-Request-Id": "find-me"},
               files={"image": ("Jane_Doe_1970.png", as_png(images(1)[0]))})
    time.sleep(0.2)
    text = service.log.read_text()
    assert '"request_id": "find-me"' in text
    assert "Jane_Doe" not in text


def test_sigterm_ends_it_with_status_0(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path, GAZESEG_DRAIN_SECONDS="0.2") as service:
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(20) == 0, service.log.read_text()


@pytest.mark.parametrize(("arguments", "needle"), [
    (["/nowhere"], "does not exist"), ([], "no artifact"), (["{folder}", "--port", "99999"], "choose another --port"),
    (["{folder}", "--max-queue", "0"], "max_queue"), (["{folder}", "--model", "second"], "name=folder"),
])
def test_what_cannot_be_served_is_said_in_one_line(folder: Path, arguments: list[str], needle: str) -> None:
    command = [part.format(folder=folder) for part in arguments]
    done = subprocess.run([sys.executable, "-m", "gazeseg_serve", "serve", *command], capture_output=True, text=True,
                          timeout=60, check=False)
    assert done.returncode == 1
    assert needle in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
