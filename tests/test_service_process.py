"""The service as a process of its own: started by the command, loaded, stopped and killed."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from artifacts import write_artifact
from PIL import Image

pytest.importorskip("bentoml")
from serving import Running, as_png, images, running

from gazeseg_serve.predictor import Predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(folder, tmp_path_factory.mktemp("service")) as service:
        yield service


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
