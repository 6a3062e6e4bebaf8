"""The service as a process of its own: started by the command, loaded, stopped and killed."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("bentoml")
from serving import Running, as_png, images, running

from gazeseg_serve.errors import GazesegError
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.service.launch import serve


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(folder, tmp_path_factory.mktemp("service"), GAZESEG_MAX_BATCH="4") as service:
        yield service


def test_32_at_once_are_batched_and_everyone_gets_their_own_mask(service: Running, folder: Path) -> None:
    pictures = images(32)
    predictor = Predictor.open(folder, "cpu")
    expected = [predictor.predict(picture).mask(0.5).astype(bool) for picture in pictures]
    before = service.batches()
    with httpx.Client(limits=httpx.Limits(max_connections=32), timeout=30) as client, ThreadPoolExecutor(32) as pool:
        for _ in range(3):
            answers = list(
                pool.map(lambda picture: client.post(service.url + "/v1/segment", files={"image": as_png(picture)}), pictures)
            )
            for answer, mask in zip(answers, expected, strict=True):
                assert answer.status_code == 200
                np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), mask)
    after = service.batches()
    of_one, runs = (after[size] - before.get(size, 0) for size in ("1.0", "+Inf"))
    assert runs > of_one, "no engine run held more than one image"
    assert runs < 96


def test_bentomls_own_client_works(service: Running, tmp_path: Path) -> None:
    picture, junk = tmp_path / "picture.png", tmp_path / "junk.png"
    picture.write_bytes(as_png(images(1)[0]))
    junk.write_bytes(b"junk")
    # In a process of its own: it leaves a temporary folder to the garbage collector, which is a warning.
    code = f"""
import io, sys, bentoml, numpy as np
from pathlib import Path
from PIL import Image
with bentoml.SyncHTTPClient({service.url!r}) as client:
    mask = np.asarray(Image.open(io.BytesIO(client.segment(image=Path({str(picture)!r})))))
    print(mask.sum(), client.describe(image=Path({str(picture)!r}))["classes"][0]["area"])
    try:
        client.segment(image=Path({str(junk)!r}))
    except bentoml.exceptions.BentoMLException as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    areas, refusal = done.stdout.strip().splitlines()
    first, second = areas.split()
    assert int(first) == int(second) > 0
    assert "unsupported-image" in refusal


def test_the_worker_holds_no_torch(service: Running) -> None:
    maps = Path(f"/proc/{service.worker().pid}/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    assert "onnxruntime" in maps.read_text()
    assert "libtorch" not in maps.read_text()


def test_logs_are_json_and_hold_the_request_id_but_no_file_name(service: Running) -> None:
    httpx.post(
        service.url + "/v1/segment",
        headers={"X-Request-Id": "find-me"},
        files={"image": ("Jane_Doe_1970.png", as_png(images(1)[0]))},
    )
    text = service.logged('"request_id": "find-me"')
    assert "Jane_Doe" not in text


@pytest.mark.parametrize(
    ("options", "port", "needle"),
    [
        ({"artifact": "/nowhere"}, 0, "does not exist"),
        ({}, 0, "no artifact"),
        ({"artifact": "{folder}"}, 99999, "--port"),
        ({"artifact": "{folder}", "max_queue": 0}, 0, "max_queue"),
        ({"artifact": "{folder}", "models": "second"}, 0, "name=folder"),
        ({"artifact": "{folder}", "device": "abacus"}, 0, "abacus"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(
    folder: Path, options: dict[str, object], port: int, needle: str
) -> None:
    filled = {name: value.format(folder=folder) if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(GazesegError, match=needle):
        serve(filled, "127.0.0.1", port)


def test_the_command_says_it_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gazeseg_serve", "serve", "/nowhere"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_sigterm_under_load_answers_everything_it_accepted(folder: Path, tmp_path: Path) -> None:
    pictures = images(16)
    predictor = Predictor.open(folder, "cpu")
    expected = [predictor.predict(picture).mask(0.5).astype(bool) for picture in pictures]
    files = [as_png(picture) for picture in pictures]
    right = threading.Semaphore(0)

    with running(folder, tmp_path, GAZESEG_DRAIN_SECONDS="2") as service:
        stopped = threading.Event()
        unanswered: list[str] = []

        def client(number: int) -> int:
            """Send until the port closes; count the refusals."""
            refusals = 0
            while True:
                # A connection a request: what was connected must be answered, however close the end is.
                connection = http.client.HTTPConnection("127.0.0.1", int(service.url.rsplit(":", 1)[1]), timeout=20)
                with contextlib.closing(connection):
                    try:
                        connection.connect()
                    except ConnectionRefusedError:
                        return refusals
                    try:
                        connection.request("POST", "/v1/segment", files[number], {"Content-Type": "image/png"})
                        response = connection.getresponse()
                        content = response.read()
                    except (http.client.HTTPException, OSError) as error:
                        unanswered.append(repr(error))
                        return refusals
                if response.status == 503:
                    assert json.loads(content)["code"] == "draining"
                    assert stopped.is_set()
                    refusals += 1
                    time.sleep(0.05)
                else:
                    assert response.status == 200
                    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), expected[number])
                    right.release()

        with ThreadPoolExecutor(16) as pool:
            clients = [pool.submit(client, number) for number in range(16)]
            for _ in range(48):
                assert right.acquire(timeout=60)
            stopped.set()
            service.process.send_signal(signal.SIGTERM)
            while httpx.get(service.url + "/readyz", timeout=20).status_code == 200:
                time.sleep(0.01)
            assert service.process.wait(60) == 0
            refused = sum(done.result() for done in clients)
    assert not unanswered
    assert refused > 0


def test_a_killed_worker_is_replaced_and_ready_again(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path) as service:
        first = service.worker()
        picture = as_png(images(1)[0])
        assert httpx.post(service.url + "/v1/segment", files={"image": picture}).status_code == 200
        first.kill()
        first.wait(10)
        with pytest.raises(httpx.TransportError):
            httpx.get(service.url + "/readyz", timeout=0.2)
        service.wait_until_ready()
        assert service.worker().pid != first.pid
        assert httpx.post(service.url + "/v1/segment", files={"image": picture}).status_code == 200
