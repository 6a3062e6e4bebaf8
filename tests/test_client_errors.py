"""What the client says of sources that cannot be sent, of broken answers and lost connections, and when it tries again."""

from __future__ import annotations

import io
import json
import socket
import ssl
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import httpx
import numpy as np
import pytest
from misbehaving import good, misbehaving
from PIL import Image
from serving import PIXELS, encoded

from gazeseg_serve import client_base
from gazeseg_serve.client import AsyncClient, Client, ServiceError, Source
from gazeseg_serve.client_calls import as_file
from gazeseg_serve.errors import ConfigError, ImageError


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses the client made, none of them slept."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def test_every_kind_of_source_is_sent(tmp_path: Path) -> None:
    data = encoded()
    (tmp_path / "x.png").write_bytes(data)
    with (tmp_path / "x.png").open("rb") as opened:
        sources: list[Source] = [data, bytearray(data), memoryview(data), io.BytesIO(data), opened, tmp_path / "x.png"]
        assert {as_file(source) for source in sources} == {data}
    for colour in (PIXELS, Image.fromarray(PIXELS)):
        decoded = cv2.imdecode(np.frombuffer(as_file(colour), np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(decoded[..., ::-1], PIXELS)
    for grey in (PIXELS[..., :1], PIXELS[..., 0], Image.fromarray(PIXELS[..., 0])):
        decoded = cv2.imdecode(np.frombuffer(as_file(grey), np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(decoded, PIXELS[..., 0])


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((2, 2)),
        np.zeros((2, 2, 4), np.uint8),
        np.zeros((0, 3), np.uint8),
        np.zeros((2, 2), np.uint16),
        "/nowhere",
        "nul\0",
        b"",
        bytearray(),
        "/dev/null",
        io.StringIO("text"),
        io.BytesIO(),
        Image.new("LAB", (2, 2)),
        Image.new("RGB", (0, 2)),
        None,
        7,
        ["x.png"],
    ],
)
def test_what_cannot_be_sent_is_an_image_error(source: Any) -> None:
    transport, seen = misbehaving([])
    with Client("http://test", transport=transport) as client:
        with pytest.raises(ImageError):
            client.segment(source)
        with pytest.raises(ImageError):
            client.batch([PIXELS, source])
        with pytest.raises(ImageError):
            client.batch([])
    assert not seen


@pytest.mark.parametrize(
    "options",
    [
        {"url": "localhost:3000"},
        {"url": ""},
        {"url": "http://x:abc"},
        {"url": "ftp://x"},
        {"url": "http://"},
        {"url": None},
        {"api_key": "a\nb"},
        {"model": ""},
        {"model": ".."},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"retries": -1},
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_cannot_be_meant_is_said_as_the_client_is_made(kind: type, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        kind(**{"url": "http://test", **options})


def test_a_broken_proxy_setting_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "wat://x")
    with pytest.raises(ConfigError, match="HTTP_PROXY"):
        Client("http://test")


@pytest.mark.parametrize("threshold", [2, -0.1, float("nan"), "half", [0.5]])
def test_a_threshold_that_is_no_probability_is_not_sent(threshold: Any) -> None:
    transport, seen = misbehaving([])
    with Client("http://test", transport=transport) as client, pytest.raises(ConfigError, match="threshold"):
        client.segment(PIXELS, threshold=threshold)
    assert not seen


@pytest.mark.parametrize("name", ["a/b", "../../metrics?x=", "über 1", "a%2Fb", "a#b"])
def test_names_of_models_are_quoted(name: str) -> None:
    transport, seen = misbehaving([httpx.Response(200, json={})])
    with Client("http://test/base/", model=name, transport=transport) as client:
        client.model()
    path = seen[0].url.raw_path.decode()
    assert path.startswith("/base/v1/models/")
    assert unquote(path.removeprefix("/base/v1/models/")) == name
    assert not set(path.removeprefix("/base/v1/models/")) & set("/?#")


def test_a_key_of_any_letters_is_sent_as_utf_8() -> None:
    transport, seen = misbehaving([httpx.Response(200, json={})])
    with Client("http://test", api_key="schlüssel", transport=transport) as client:
        client.model()
    assert dict(seen[0].headers.raw)[b"Authorization"] == "Bearer schlüssel".encode()


def test_busy_answers_and_lost_connections_are_tried_again(pauses: list[float]) -> None:
    transport, seen = misbehaving(
        [httpx.Response(503, headers={"Retry-After": "2"}), httpx.ConnectError("gone"), httpx.Response(429), good()]
    )
    with Client("http://test", transport=transport) as client:
        np.testing.assert_array_equal(client.segment(PIXELS).labels, np.eye(4))
    assert len(seen) == 4
    assert len({request.content for request in seen}) == 1, "the retries sent the same image"
    assert pauses[0] >= 2
    assert all(0 < pause <= client_base._LONGEST_PAUSE for pause in pauses)


def test_it_gives_up_after_its_retries(pauses: list[float]) -> None:
    transport, seen = misbehaving([httpx.ConnectError("refused")] * 3)
    with Client("http://test", transport=transport, retries=2) as client, pytest.raises(ServiceError) as caught:
        client.segment(PIXELS)
    assert "running" in str(caught.value)
    assert (len(seen), caught.value.status, caught.value.code) == (3, 0, "unreachable")
    transport, seen = misbehaving([httpx.Response(503, headers={"Retry-After": "9"})] * 3)
    with Client("http://test", transport=transport, retries=2) as client, pytest.raises(ServiceError) as caught:
        client.segment(PIXELS)
    assert (len(seen), caught.value.status, caught.value.retry_after) == (3, 503, 9)
    assert pauses[2:] == [9, 9]


def caused_by(cause: Exception) -> httpx.ConnectError:
    """As httpx raises it: the system's error lies two layers down."""
    middle, outer = RuntimeError("httpcore"), httpx.ConnectError("cannot connect")
    middle.__cause__, outer.__cause__ = cause, middle
    return outer


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        (httpx.Response(500, text="oops"), 500, "unknown"),
        (httpx.Response(500, content=b"{", headers={"Content-Type": "application/json"}), 500, "unknown"),
        (httpx.Response(502, html="<html>"), 502, "unknown"),
        (httpx.Response(302, headers={"Location": "/login"}), 302, "unknown"),
        (httpx.Response(413, json={"code": "body-too-large", "detail": "too large"}), 413, "body-too-large"),
        (httpx.Response(503, headers={"Retry-After": "3600"}), 503, "unknown"),
        (httpx.Response(503, headers={"Retry-After": "Wed, 25 Nov 2099 23:00:00 GMT"}), 503, "unknown"),
        (httpx.Response(200, html="<html>a portal"), 200, "bad-answer"),
        (httpx.Response(200, content=b""), 200, "bad-answer"),
        (httpx.Response(200, content=encoded()), 200, "bad-answer"),  # a picture where a mask should be
        (httpx.ReadTimeout("slow"), 0, "timeout"),
        (httpx.DecodingError("no gzip"), 0, "bad-answer"),
        (caused_by(ssl.SSLCertVerificationError("self-signed")), 0, "unreachable"),
        (caused_by(socket.gaierror(socket.EAI_NONAME, "no such name")), 0, "unreachable"),
    ],
    ids=str,
)
def test_what_another_try_cannot_mend_is_said_at_once(answer: Any, status: int, code: str, pauses: list[float]) -> None:
    transport, seen = misbehaving([answer])
    with Client("http://test", transport=transport) as client, pytest.raises(ServiceError) as caught:
        client.segment(PIXELS)
    assert (caught.value.status, caught.value.code, len(seen), pauses) == (status, code, 1, [])


@pytest.mark.parametrize(
    "passing",
    [
        httpx.ConnectTimeout("slow"),
        httpx.ReadError("reset"),
        httpx.WriteError("reset"),
        httpx.RemoteProtocolError("closed"),
        caused_by(socket.gaierror(socket.EAI_AGAIN, "later")),
        httpx.Response(503, headers={"Retry-After": "Wed, 25 Nov 2020 23:00:00 GMT"}),
        httpx.Response(503, headers={"Retry-After": "soon"}),
        httpx.Response(429),
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(passing: Any, pauses: list[float]) -> None:
    transport, seen = misbehaving([passing, good()])
    with Client("http://test", transport=transport) as client:
        client.segment(PIXELS)
    assert len(seen) == 2
    assert 0 < pauses[0] < 1


@pytest.mark.parametrize("call", ["describe", "arrays", "overlay", "dicom_seg", "dicom_sr", "batch", "model", "models"])
@pytest.mark.parametrize(
    "body", [b"<html>", b"", b"[]", b'{"models": 1}', b"PK\x05\x06" + bytes(18), encoded()[:60], b"[" * 99999]
)
def test_no_answer_breaks_out_of_the_client_s_own_errors(call: str, body: bytes) -> None:
    transport, _ = misbehaving([httpx.Response(200, content=body)])
    arguments = {"model": (), "models": (), "batch": ([PIXELS],)}.get(call, (PIXELS,))
    with Client("http://test", transport=transport) as client:
        if call in ("model", "describe") and body == b'{"models": 1}':  # any object may be a card
            assert getattr(client, call)(*arguments) == {"models": 1}
            return
        with pytest.raises(ServiceError) as caught:
            getattr(client, call)(*arguments)
    assert (caught.value.status, caught.value.code) == (200, "bad-answer")


@pytest.mark.parametrize("sent", [1, 3])
def test_a_batch_with_other_answers_than_images_is_no_answer(sent: int) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        refused = {"name": "a", "file": None, "error": {"status": 415, "code": "unsupported-image", "detail": "no"}}
        packed.writestr("index.json", json.dumps({"images": [refused] * 2}))
    transport, _ = misbehaving([httpx.Response(200, content=file.getvalue())] * 2)
    with Client("http://test", transport=transport) as client:
        assert len(client.batch([PIXELS] * 2)) == 2
        with pytest.raises(ServiceError, match="archive of masks"):
            client.batch([PIXELS] * sent)


def test_a_call_waits_for_a_connection_of_the_client_as_long_as_it_takes() -> None:
    with Client("http://test", timeout=3) as client:
        assert client._client.timeout == httpx.Timeout(3, pool=None)


def test_a_closed_client_says_so() -> None:
    client = Client("http://test")
    client.close()
    with pytest.raises(ConfigError, match="closed"):
        client.model()
