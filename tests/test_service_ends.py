"""How the service ends, or does not begin: broken artifacts, SIGTERM whatever runs, a killed supervisor, stuck threads."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import onnx
import psutil
import pytest
from artifacts import write_artifact
from onnx import helper

pytest.importorskip("bentoml")
from serving import Running, encoded, running
from test_service_codecs import blank_png
from test_service_limits import served, until

from gazeseg_serve.contract import MODEL_FILE, Artifact
from gazeseg_serve.files import sha256_file
from gazeseg_serve.pixels import Limits

LONG = blank_png(6000)
assert Limits().max_pixels > 6000**2


def rehash(folder: Path, **changes: object) -> None:
    digest = sha256_file(folder / MODEL_FILE)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(id=digest, files={MODEL_FILE: digest}, **changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def garbage(folder: Path) -> None:
    (folder / MODEL_FILE).write_bytes(b"garbage" * 100)


def custom_operator(folder: Path) -> None:
    model = onnx.load(folder / MODEL_FILE)
    model.graph.node.append(helper.make_node("Evil", ["image"], ["nothing"], domain="com.evil"))
    onnx.save(model, folder / MODEL_FILE)


def of_another_size(folder: Path) -> None:
    other = folder.parent / "other"
    write_artifact(other, size=64)
    (folder / MODEL_FILE).write_bytes((other / MODEL_FILE).read_bytes())


def of_other_classes(folder: Path) -> None:
    other = folder.parent / "other"
    write_artifact(other, classes=("a", "b"))
    (folder / MODEL_FILE).write_bytes((other / MODEL_FILE).read_bytes())


def without_disagreement(folder: Path) -> None:
    other = folder.parent / "other"
    write_artifact(other, disagreement=False)
    (folder / MODEL_FILE).write_bytes((other / MODEL_FILE).read_bytes())


@pytest.mark.parametrize("spoil", [garbage, custom_operator, of_another_size, of_other_classes, without_disagreement])
def test_a_model_that_cannot_be_served_ends_the_start_with_one_line(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    folder = tmp_path / "artifact"
    write_artifact(folder)
    spoil(folder)
    rehash(folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "gazeseg_serve", "serve", str(folder), "--port", str(port)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    plain = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert done.returncode == 1, done.stderr
    assert len(plain) == 1, done.stderr
    assert plain[0].startswith("gazeseg-serve: ")
    assert "Traceback" not in done.stderr.replace('"exception"', "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    return folder


@contextmanager
def attacked(service: Running, stay: bool) -> Iterator[list[int]]:
    """Long work for the codec processes: of senders who leave at once, or who wait for their answers; their statuses."""
    statuses: list[int] = []
    head = b"POST /v1/segment?output=overlay HTTP/1.1\r\nHost: t\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"

    def send() -> None:
        with socket.create_connection(("127.0.0.1", service.port), timeout=60) as plug:
            plug.sendall(head % len(LONG) + LONG)
            if stay:
                first = plug.recv(65536).split()
                statuses.append(int(first[1]) if len(first) > 1 else 0)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    yield statuses
    for thread in threads:
        thread.join(60)


def test_sigterm_while_those_who_left_keep_it_busy(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path, GAZESEG_DRAIN_SECONDS="0") as service:
        with attacked(service, stay=False):
            pass
        children = service.worker().children(recursive=True)
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
        assert not psutil.wait_procs(children, timeout=60)[1], "they live on"


def test_sigterm_is_obeyed_within_the_grace_time_and_everybody_is_told(folder: Path, tmp_path: Path) -> None:
    settings = {"GAZESEG_DRAIN_SECONDS": "0", "GAZESEG_GRACE_SECONDS": "2"}
    with running(folder, tmp_path, **settings) as service, attacked(service, stay=True) as statuses:
        deadline = time.monotonic() + 60
        while b"gazeseg_in_flight 4.0" not in httpx.get(service.url + "/metrics").content:
            assert time.monotonic() < deadline or statuses
            if statuses:
                break
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0
    assert len(statuses) == 4
    assert set(statuses) <= {200, 503}


def test_a_killed_supervisor_leaves_nobody_on_the_port(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path, GAZESEG_DRAIN_SECONDS="0") as service:
        family = psutil.Process(service.process.pid).children(recursive=True)
        assert len(family) >= 2
        service.process.kill()
        service.process.wait(60)
        assert not psutil.wait_procs(family, timeout=60)[1], "they live on"
        with socket.create_server(("127.0.0.1", service.port)):
            pass


def test_a_stuck_engine_is_not_ready_and_in_the_end_not_alive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with served(folder, timeout_seconds=0.2) as (client, gate, runtime, _):
            host = runtime.host("default")
            stuck, begun = threading.Event(), threading.Event()

            def run(*_: object) -> None:
                begun.set()
                stuck.wait(60)
                raise RuntimeError("let go")

            with monkeypatch.context() as patched:
                patched.setattr(host.predictor.engine, "run", run)
                gate.open.set()
                answer = await client.post("/v1/segment", files={"image": encoded()})
                assert answer.status_code == 504
                assert begun.is_set()
                await until(lambda: not runtime.is_ready())
                await until(lambda: not runtime.is_alive())
                stuck.set()
                await until(runtime.is_ready)
            assert (await client.post("/v1/segment", files={"image": encoded()})).status_code == 200

    asyncio.run(scenario())


def test_a_stuck_codec_thread_is_not_ready(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with served(folder, timeout_seconds=0.2) as (client, gate, runtime, _):
            stuck = threading.Event()
            gate.open.set()
            with monkeypatch.context() as patched:
                patched.setattr("gazeseg_serve.service.codec_tasks.decode_image", lambda *_: stuck.wait(60))
                assert (await client.post("/v1/segment", files={"image": encoded()})).status_code == 504
                await until(lambda: not runtime.is_ready())
                stuck.set()
                await until(runtime.is_ready)

    asyncio.run(scenario())


@pytest.mark.parametrize("changes", [
    {"threshold": 7}, {"threshold": -0.1}, {"threshold": float("nan")}, {"colours": []}, {"colours": [[300, -1, 5]]},
    {"model": "../artifact/model.onnx"}, {"files": {"../../etc/hostname": "x"}}, {"outputs": []},
])  # fmt: skip
def test_a_manifest_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    from gazeseg_serve.errors import ContractError

    folder = tmp_path / "artifact"
    artifact = dataclasses.asdict(write_artifact(folder))
    files = {**artifact["files"], **changes.pop("files", {})}  # type: ignore[dict-item]
    if "model" in changes:
        files[str(changes["model"])] = artifact["id"]
    (folder / "manifest.json").write_text(json.dumps({**artifact, **changes, "files": files}))
    with pytest.raises(ContractError):
        Artifact.load(folder)


@pytest.mark.parametrize("layout", ["hub", "kubernetes", "whole folder"])
def test_folders_of_links_are_served(tmp_path: Path, layout: str) -> None:
    """Hubs keep blobs and link to them; Kubernetes' volumes link to `..data`, which links to a folder of the day."""
    real, folder = tmp_path / "real", tmp_path / "artifact"
    artifact = write_artifact(real)
    if layout == "whole folder":
        folder.symlink_to(real)
    else:
        folder.mkdir()
        hidden = folder if layout == "kubernetes" else tmp_path
        day = hidden / "..2026_11"
        real.rename(day)
        (hidden / "..data").symlink_to("..2026_11")
        for name in ("manifest.json", MODEL_FILE):
            (folder / name).symlink_to(Path("..data") / name if layout == "kubernetes" else day / name)
    assert Artifact.load(folder) == artifact
