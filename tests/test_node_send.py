"""Both ways back to an archive, against small archives that answer as they are told; TLS; the command's own lines."""

from __future__ import annotations

import gc
import io
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")
import numpy as np
import pydicom
from artifacts import write_artifact
from dicom_images import image
from nodes import BrightMasks, MemoryArchive, running, send, settings_in, wait_for
from pynetdicom import AE, evt
from typer.testing import CliRunner

from gazeseg_serve.cli.main import app
from gazeseg_serve.dicom_result import ResultOptions
from gazeseg_serve.dicom_seg import segmentation
from gazeseg_serve.errors import ConfigError
from gazeseg_serve.node import receive
from gazeseg_serve.node.send import EntityArchive, NotEver, NotNow, WebArchive
from gazeseg_serve.node.settings import EntityTarget, Tls, WebTarget
from gazeseg_serve.node.spool import Spool

# pynetdicom leaves the socket of a connection that was refused to the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
SEG_CLASS = "1.2.840.10008.5.1.4.1.1.66.4"


@pytest.fixture(autouse=True)
def _sockets_of_refused_connections() -> Iterator[None]:
    """Collected here, where they are expected."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    artifact = write_artifact(tmp_path_factory.mktemp("artifact"))
    return segmentation([image("mr")], np.zeros((1, 24, 40), np.uint8), artifact, ResultOptions(0.5))


class WebServer:
    """Answers STOW-RS and metadata as `answers` says: a method to (status, content type, body)."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str, bytes]] = {"POST": (200, "application/dicom+json", b"{}")}
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((f"{self.command} {self.path}", dict(self.headers), body))
                status, kind, text = outer.answers[self.command]
                self.send_response(status)
                if status in (301, 302, 307):
                    self.send_header("Location", "http://127.0.0.1:9/elsewhere")
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_GET = answer

            def log_message(self, format: str, *arguments: Any) -> None:
                return

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/dicom-web"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


def failed(reason: int) -> bytes:
    item = f'{{"00081197": {{"vr": "US", "Value": [{reason}]}}}}'
    return f'{{"00081198": {{"vr": "SQ", "Value": [{item}]}}}}'.encode()


def test_stow_sends_the_object_whole_and_signed_in(web: WebServer, content: bytes) -> None:
    WebArchive(WebTarget(web.url, "gazeseg", "geheim")).store(content, replaces=False)
    WebArchive(WebTarget(web.url, token="marke")).store(content, replaces=False)
    (first, headers, body), (_, others, _) = web.seen
    assert first == "POST /dicom-web/studies"
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"')
    assert pydicom.dcmread(io.BytesIO(content)).PixelData in body
    assert headers["Authorization"].startswith("Basic ")
    assert others["Authorization"] == "Bearer marke"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((503, "text/plain", b""), NotNow),
        ((401, "text/plain", b""), NotNow),
        ((404, "text/plain", b""), NotNow),
        ((507, "text/plain", b""), NotNow),
        ((400, "text/plain", b""), NotEver),
        ((409, "application/dicom+json", b"{}"), NotEver),
        ((302, "text/plain", b""), NotEver),
        ((200, "application/dicom+json", b"no json"), NotNow),
        ((200, "application/dicom+json", failed(0xA700)), NotNow),
        ((200, "application/dicom+json", failed(0xA900)), NotEver),
    ],
)
def test_every_answer_to_stow_is_taken_for_what_it_is(
    answer: tuple[int, str, bytes], error: type[Exception], web: WebServer, content: bytes
) -> None:
    web.answers["POST"] = answer
    with pytest.raises(error):
        WebArchive(WebTarget(web.url)).store(content, replaces=False)


def test_an_archive_that_is_not_there_is_tried_again(content: bytes) -> None:
    with pytest.raises(NotNow, match="cannot be reached"):
        WebArchive(WebTarget("http://127.0.0.1:9/dicom-web")).store(content, replaces=False)
    with pytest.raises(NotNow, match="cannot be reached"):
        EntityArchive(EntityTarget("ARCHIVE", "127.0.0.1", 9), settings_in(Path("unused"))).store(content, replaces=False)


@pytest.mark.parametrize(("frames", "kept"), [(1, True), (2, False)])
def test_an_archive_that_keeps_an_older_result_is_found_out(frames: int, kept: bool, web: WebServer, content: bytes) -> None:
    web.answers["GET"] = (200, "application/dicom+json", f'[{{"00280008": {{"vr": "IS", "Value": [{frames}]}}}}]'.encode())
    archive = WebArchive(WebTarget(web.url))
    if kept:
        archive.store(content, replaces=True)
        assert "/metadata" in web.seen[-1][0]
        return
    with pytest.raises(NotEver, match="OverwriteInstances"):
        archive.store(content, replaces=True)


@pytest.mark.parametrize(
    ("status", "error"), [(0, None), (0xB000, None), (0xA700, NotNow), (0xA900, NotEver), (0xC000, NotEver)]
)
def test_every_status_of_c_store_is_taken_for_what_it_is(status: int, error: type[Exception] | None, content: bytes) -> None:
    held = []

    def store(event: evt.Event) -> int:
        held.append(event.encoded_dataset(include_meta=False))
        return status

    entity = AE("ARCHIVE")
    entity.add_supported_context(SEG_CLASS)
    entity.require_called_aet = True
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        target = EntityTarget("ARCHIVE", "127.0.0.1", server.socket.getsockname()[1])
        archive = EntityArchive(target, settings_in(Path("unused")))
        if error is None:
            archive.store(content, replaces=False)
        else:
            with pytest.raises(error, match=f"0x{status:04X}"):
                archive.store(content, replaces=False)
        assert pydicom.dcmread(io.BytesIO(content)).PixelData in held[0]
        wrong = EntityArchive(EntityTarget("OTHER", target.host, target.port), settings_in(Path("unused")))
        with pytest.raises(NotNow, match="refuses the association"):
            wrong.store(content, replaces=False)
    finally:
        server.shutdown()


def test_tls_lets_in_who_trusts_the_certificate(tmp_path: Path) -> None:
    certificate, key = tmp_path / "node.pem", tmp_path / "node.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=60)
    masks, archive = BrightMasks(tmp_path / "artifact"), MemoryArchive()
    with running(settings_in(tmp_path, tls=Tls(certificate, key)), masks, archive) as node:
        trusting = ssl.create_default_context(cafile=certificate)
        trusting.check_hostname = False
        entity = AE("TEST")
        entity.add_requested_context(image("mr").SOPClassUID, "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", node.port, ae_title="GAZESEG", tls_args=(trusting, None))
        assert association.is_established
        assert association.send_c_store(image("mr")).Status == 0
        association.release()
        wait_for(lambda: len(archive.held) == 1)
        assert send(node.port, [image("mr", 2)]) == []  # without TLS
    with pytest.raises(ConfigError, match="TLS"):
        receive.tls_context(Tls(key, key))


def test_the_command_shows_a_spool_and_gives_dead_letters_another_try(tmp_path: Path) -> None:
    def fail() -> None:
        raise NotEver("no room for segmentations")

    masks, archive, runner = BrightMasks(tmp_path / "artifact"), MemoryArchive(), CliRunner()
    archive.fail = fail
    settings = settings_in(tmp_path)
    with running(settings, masks, archive) as node:
        send(node.port, [image("mr")])
        wait_for(lambda: node.spool.counts().get("dead-result") == 1)
        shown = runner.invoke(app, ["node", "status", "--spool", str(settings.spool), "--json"])
        assert shown.exit_code == 0
        assert "no room for segmentations" in shown.output
        assert '"dead": 1' in shown.output
    again = runner.invoke(app, ["node", "retry", "--spool", str(settings.spool)])
    assert again.output.startswith("1 dead letter")
    assert not list((settings.spool / "dead").iterdir())
    spool = Spool(settings.spool)
    assert len(spool.results("state = 'waiting'")) == 1
    spool.close()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--to", "http://h/d", "--tls-key", "k"],
        ["--to", "http://h/d", "--service", "http://s", "artifact"],
    ],
)
def test_what_does_not_go_together_is_a_usage_error(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, ["node", *arguments]).exit_code == 2


def test_a_clock_that_jumps_loses_and_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks, archive = BrightMasks(tmp_path / "artifact"), MemoryArchive()
    jumps = iter([0.0, 1e9, 10.0, 2e9, 5.0, 3e9] * 100)
    clock = SimpleNamespace(time=lambda: next(jumps), monotonic=time.monotonic)
    for module in ("spool", "work", "status"):
        monkeypatch.setattr(f"gazeseg_serve.node.{module}.time", clock)
    with running(settings_in(tmp_path), masks, archive) as node:
        for number in range(1, 7):
            assert send(node.port, [image("ct", number, SeriesInstanceUID=f"1.2.3.{number}")]) == [0]
        wait_for(lambda: len(archive.held) == 6)
        wait_for(lambda: not node.spool.images("state != 'done'"))
    assert len(archive.stores) == 6
