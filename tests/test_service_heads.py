"""The head of a request: how long it may take to come, and how long it may be. A process of its own listens; what a clock
must tell is in test_connection_heads.py."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest
from artifacts import write_artifact

pytest.importorskip("bentoml")
from serving import Running, running

from gazeseg_serve.service.head_limits import HEAD_BYTES

SECONDS = 1.0
WHOLE = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    with running(folder, tmp_path_factory.mktemp("service"), GAZESEG_HEAD_SECONDS=str(SECONDS)) as service:
        yield service


def connected(service: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(service.url.rsplit(":", 1)[1])), timeout=20)


@pytest.fixture
def connection(service: Running) -> Iterator[socket.socket]:
    with connected(service) as connection:
        yield connection


def until_closed(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


def refusal(answer: bytes, status: int, code: str) -> None:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head.lower()
    assert (json.loads(body)["status"], json.loads(body)["code"]) == (status, code)


def answer_on(connection: socket.socket) -> bytes:
    """The head of the next answer; its body is read, too."""
    found = b""
    while b"\r\n\r\n" not in found:
        piece = connection.recv(65536)
        assert piece, "the connection was closed"
        found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
    while len(body) < length:
        body += connection.recv(65536)
    return head


def test_a_head_that_comes_letter_by_letter_is_refused(service: Running) -> None:
    answer = b""
    with connected(service) as connection:
        connection.settimeout(0.1)
        for letter in b"GET /livez HTTP/1.1\r\nX-Slow: " + b"a" * 10_000:
            try:
                connection.sendall(bytes([letter]))
                answer = connection.recv(65536)
                break
            except TimeoutError:  # nothing was said yet: the next letter
                continue
    refusal(answer, 408, "slow-head")


def test_a_connection_that_says_nothing_is_closed_without_a_word(connection: socket.socket) -> None:
    assert until_closed(connection) == b""


def test_a_head_without_an_end_is_refused(connection: socket.socket) -> None:
    sent = 0
    try:
        connection.sendall(b"GET /livez HTTP/1.1\r\nX-Long: ")
        while sent < 64 * HEAD_BYTES:
            connection.sendall(b"a" * 8192)
            sent += 8192
    except OSError:  # it has been closed
        pass
    assert sent < 64 * HEAD_BYTES


def test_a_head_a_little_too_long_is_told_so(connection: socket.socket) -> None:
    connection.sendall(b"GET /livez HTTP/1.1\r\nX-Long: " + b"a" * HEAD_BYTES)
    refusal(until_closed(connection), 431, "head-too-large")


def test_the_next_request_of_a_kept_connection_is_watched_too(connection: socket.socket) -> None:
    connection.sendall(WHOLE)
    assert answer_on(connection).startswith(b"HTTP/1.1 200")
    connection.sendall(WHOLE[:20])
    refusal(until_closed(connection), 408, "slow-head")
