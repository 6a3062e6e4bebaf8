"""Connections beyond one request and its answer: offers of HTTP/2, bodies nobody reads, silence, slow readers, junk."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from artifacts import write_artifact

pytest.importorskip("bentoml")
from serving import Running, encoded, running

IMAGE = encoded()
LIVE = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
POST = b"POST /v1/segment HTTP/1.1\r\nHost: test\r\nContent-Type: image/png\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    settings = {"GAZESEG_WRITE_SECONDS": "0.5", "GAZESEG_MAX_BYTES": "2000000", "GAZESEG_CORS_ORIGINS": "https://a.example"}
    with running(folder, tmp_path_factory.mktemp("service"), **settings) as service:
        yield service


@pytest.fixture
def plug(service: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as plug:
        plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield plug


def answer(plug: socket.socket) -> tuple[int, dict[bytes, bytes], bytes]:
    """The next answer that comes, which must have a Content-Length."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = plug.recv(1)
        assert piece, f"closed after {found!r}"
        found += piece
    first, *lines = found[:-4].split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    body = b""
    while len(body) < int(headers[b"content-length"]):
        body += plug.recv(int(headers[b"content-length"]) - len(body))
    return int(first.split()[1]), headers, body


def closed(plug: socket.socket) -> bool:
    try:
        return plug.recv(1) == b""
    except ConnectionResetError:
        return True


def post(image: bytes = IMAGE, extra: bytes = b"") -> bytes:
    return POST + extra + b"Content-Length: %d\r\n\r\n" % len(image) + image


@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_an_offer_of_h2c_is_answered_over_http_1(plug: socket.socket, pieces: int) -> None:
    plug.sendall(post())
    _, _, expected = answer(plug)
    whole = post(extra=H2C)
    size = max(1, len(whole) // pieces)
    for start in range(0, len(whole), size):
        plug.sendall(whole[start : start + size])
    assert answer(plug)[::2] == (200, expected)
    plug.sendall(LIVE)
    assert answer(plug)[0] == 200, "the connection goes on"


def test_h2c_with_a_chunked_body_and_in_the_middle_of_a_pipeline(plug: socket.socket) -> None:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (IMAGE[:100], IMAGE[100:])) + b"0\r\n\r\n"
    plug.sendall(LIVE + POST + H2C + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + post())
    assert answer(plug)[0] == 200
    first, second = answer(plug), answer(plug)
    assert first[0] == second[0] == 200
    assert first[2] == second[2]


def test_an_offer_does_not_make_two_requests_of_one(plug: socket.socket) -> None:
    """What a body holds stays a body: the head is read once more without its offer, and framed as before."""
    inner = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"
    plug.sendall(POST + H2C + b"Content-Length: %d\r\n\r\n" % len(inner) + inner + LIVE)
    assert answer(plug)[0] == 415
    status, _, body = answer(plug)
    assert (status, b"gazeseg_requests" in body) == (200, False)


def test_the_rest_of_a_refused_body_is_read_so_that_the_refusal_is(plug: socket.socket) -> None:
    large = 5_000_000
    for extra in (b"", b"Connection: close\r\n"):
        with socket.create_connection(plug.getpeername(), timeout=60) as sender:
            sender.sendall(POST + extra + b"Origin: https://a.example\r\nContent-Length: %d\r\n\r\n" % large)
            for _ in range(large // 50_000):
                sender.sendall(bytes(50_000))  # nothing is cut off under the sender's hands
            status, headers, body = answer(sender)
            assert (status, json.loads(body)["code"]) == (413, "body-too-large")
            assert headers[b"access-control-allow-origin"] == b"https://a.example"
            if extra:
                assert closed(sender)
            else:
                sender.sendall(LIVE)
                assert answer(sender)[0] == 200


@pytest.mark.parametrize("half", [
    LIVE[:-2] + b"Content-Length: 100\r\n\r\n",
    POST.replace(b"image/png", b"text/plain") + b"Content-Length: 1000000\r\n\r\n",
    b"POST /nope HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n",
])  # fmt: skip
def test_a_body_that_never_ends_does_not_hold_its_connection(plug: socket.socket, half: bytes) -> None:
    plug.sendall(half)
    answer(plug)
    plug.sendall(b"1")
    assert closed(plug), "uvicorn waits for ever"


def test_line_ends_between_requests_do_not_count_as_one(plug: socket.socket) -> None:
    plug.sendall(LIVE)
    answer(plug)
    plug.sendall(b"\r\n\r\n")
    plug.sendall(LIVE)
    assert answer(plug)[0] == 200


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
)
def test_what_is_not_http_is_told_so_as_a_problem(plug: socket.socket, junk: bytes) -> None:
    plug.sendall(junk)
    status, headers, body = answer(plug)
    assert (status, headers[b"content-type"]) == (400, b"application/problem+json")
    assert json.loads(body)["code"] == "not-http"
    assert closed(plug)


def test_a_client_that_takes_nothing_of_its_answer_is_cut_off(service: Running) -> None:
    """By its own end: what it gets, when at last it reads, is less than the whole, which is more than the system keeps."""
    noise = encoded(".png", np.random.default_rng(1).integers(0, 256, (700, 800, 3), dtype=np.uint8))
    part = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + noise + b"\r\n"
    body, kind = part * 12 + b"--b--\r\n", "multipart/form-data; boundary=b"
    url = "/v1/segment/batch?output=overlay"
    whole = len(httpx.post(service.url + url, content=body, headers={"Content-Type": kind}, timeout=60).content)
    head = f"POST {url} HTTP/1.1\r\nHost: test\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(60)
        slow.connect(("127.0.0.1", service.port))
        slow.sendall(head.encode() + body)
        until(lambda: b'reason="slow-reader"' in metrics(service))
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := slow.recv(65536):
                taken += len(piece)
        assert taken < whole
    until(lambda: b"gazeseg_in_flight 0.0" in metrics(service))


def metrics(service: Running) -> bytes:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as plug:
        plug.sendall(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
        return answer(plug)[2]


def until(condition: object) -> None:
    end = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)
