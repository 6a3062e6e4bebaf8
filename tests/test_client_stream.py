"""Streams of both clients against a service in a process of its own: every frame its own mask, many at once, and the ends."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

pytest.importorskip("bentoml")
pytest.importorskip("websockets")
from gated_service import metric
from serving import Running, as_png, encoded, images, running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_sockets

from gazeseg_serve.client import AsyncClient, Client, ServiceError, StreamMask, StreamOptions
from gazeseg_serve.client_stream import read
from gazeseg_serve.errors import ConfigError, ImageError
from gazeseg_serve.predictor import Predictor

EVERY = StreamOptions("every")


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(folder, tmp_path_factory.mktemp("service"), GAZESEG_WRITE_SECONDS="1", GAZESEG_API_KEYS="key") as service:
        yield service


@pytest.fixture
def client(service: Running) -> Iterator[Client]:
    with Client(service.url, api_key="key") as client:
        yield client


def check(answers: list[StreamMask], pictures: list[np.ndarray], folder: Path) -> None:
    predictor = Predictor.open(folder, "cpu")
    assert [answer.stamp for answer in answers] == [i / 25 for i in range(len(pictures))]
    for answer, picture in zip(answers, pictures, strict=True):
        assert answer.labels is not None, answer
        np.testing.assert_array_equal(answer.labels, predictor.predict(picture).mask())
        assert answer.model == predictor.artifact.id
        assert answer.seconds["total"] > 0


def stamped(pictures: list[np.ndarray]) -> Iterator[tuple[float, np.ndarray]]:
    return ((i / 25, picture) for i, picture in enumerate(pictures))


def test_every_frame_comes_back_with_its_own_mask(client: Client, folder: Path) -> None:
    pictures = images(12)
    check(list(client.stream(stamped(pictures), EVERY)), pictures, folder)
    assert list(client.stream(iter(()), EVERY)) == []


def test_the_same_to_await(service: Running, folder: Path) -> None:
    pictures = images(12)

    async def slowly() -> AsyncIterator[tuple[float, np.ndarray]]:
        for frame in stamped(pictures):
            await asyncio.sleep(0)
            yield frame

    async def scenario() -> None:
        async with AsyncClient(service.url, api_key="key") as client:
            check([answer async for answer in client.stream(slowly(), EVERY)], pictures, folder)
            check([answer async for answer in client.stream(list(stamped(pictures)), EVERY)], pictures, folder)
            assert [answer async for answer in client.stream([], EVERY)] == []
            with pytest.raises(ImageError):
                [answer async for answer in client.stream([(0.0, b"")])]
            with pytest.raises(ServiceError, match="401"):
                [answer async for answer in AsyncClient(service.url).stream([])]

    asyncio.run(scenario())


def test_the_newest_frame_wins_and_the_last_is_never_lost(client: Client) -> None:
    answers = list(client.stream(stamped(images(40))))
    assert sorted(answer.stamp for answer in answers) == [i / 25 for i in range(40)]
    assert answers[-1].stamp == 39 / 25
    assert answers[-1].labels is not None


def test_a_refused_frame_is_told_and_the_stream_goes_on(client: Client) -> None:
    first, second = client.stream([(0.0, b"junk"), (1.0, encoded())], EVERY)
    assert first.error is not None
    assert (first.error.status, first.error.code, first.labels) == (415, "unsupported-image", None)
    assert second.labels is not None


def test_an_error_of_the_frames_own_is_raised_here(client: Client) -> None:
    def broken() -> Iterator[tuple[float, bytes]]:
        yield 0.0, encoded()
        raise ZeroDivisionError("the camera fell down")

    with pytest.raises(ZeroDivisionError, match="fell down"):
        list(client.stream(broken(), EVERY))
    with pytest.raises(ImageError):
        list(client.stream([(0.0, b"")]))


def test_a_caller_that_has_enough_may_leave(client: Client, service: Running) -> None:
    for _ in range(3):
        with contextlib.closing(client.stream(stamped(images(30)), EVERY)) as answers:
            assert next(answers).labels is not None
    assert next(client.stream([(0.0, encoded())], EVERY)).labels is not None


@pytest.mark.parametrize(
    ("options", "status"), [(StreamOptions(threshold=2), 422), (StreamOptions(smooth=11), 422), (StreamOptions(release=0), 422)]
)
def test_what_the_service_refuses_is_a_service_error(options: StreamOptions, status: int, client: Client) -> None:
    with pytest.raises(ServiceError, match="answered 422") as error:
        list(client.stream([], options))
    assert (error.value.status, error.value.code) == (status, "bad-parameter")


def test_wrong_keys_models_orders_and_addresses(service: Running, client: Client) -> None:
    with pytest.raises(ConfigError, match="newest or every"):
        list(client.stream([], StreamOptions("oldest")))
    with pytest.raises(ServiceError, match="404"):
        list(Client(service.url, api_key="key", model="a b/c").stream([]))
    with pytest.raises(ServiceError, match="401"):
        list(Client(service.url, api_key="wrong").stream([]))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(ServiceError, match="cannot be reached"):
        list(Client(f"http://127.0.0.1:{port}").stream([]))
    for message in (b"", b"\0\0\0\2{}", b'\0\0\0\x09{"stamp"}', "text"):
        with pytest.raises(ServiceError) as bad:
            read(message)
        assert bad.value.code == "bad-answer"


def test_sixteen_streams_beside_plain_requests_get_their_own_masks_and_nobody_starves(service: Running, folder: Path) -> None:
    pictures, predictor = images(20), Predictor.open(folder, "cpu")
    expected = [predictor.predict(picture).mask() for picture in pictures]

    def one(place: int) -> int:
        with Client(service.url, api_key="key") as client:
            if place >= 16:
                return sum(np.array_equal(client.segment(pictures[place]).labels, expected[place]) for _ in range(6))
            answers = client.stream(((float(i), pictures[place]) for i in range(6)), EVERY)
            return sum(np.array_equal(answer.labels, expected[place]) for answer in answers)

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(one, range(20))) == [6] * 20


def test_who_stops_reading_is_cut_off_and_costs_no_memory(service: Running) -> None:
    worker = service.worker()
    noise = as_png(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))  # 1.5 MB, and so is its overlay
    head = b'{"stamp": 1}'
    message = struct.pack(">I", len(head)) + head + noise
    plug = socket.create_connection(("127.0.0.1", service.port))
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    url = f"ws://127.0.0.1:{service.port}/v1/stream?output=overlay&order=every"
    before = worker.memory_info().rss
    with connect(
        url, sock=plug, additional_headers={"X-API-Key": "key"}, compression=None, max_size=None, max_queue=1
    ) as stream:
        end, sent = time.monotonic() + 60, 0
        with contextlib.suppress(ConnectionClosed, OSError):
            while time.monotonic() < end:
                stream.send(message)
                sent += 1
    assert time.monotonic() < end, "never cut off"
    assert sent < 60, "it was not read on and on"
    assert worker.memory_info().rss < before + 150 * 2**20
    assert metric(httpx.get(service.url + "/metrics").text, "gazeseg_streams") == 0


def test_no_more_than_three_frames_are_sent_unanswered() -> None:
    """A send does not push back by itself: the client waits for answers."""
    took: list[int] = []

    def serve(plug: ServerConnection) -> None:
        held = 0
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            while True:
                with contextlib.suppress(TimeoutError):
                    while True:
                        plug.recv(0.2)
                        held += 1
                took.append(held)
                for _ in range(held):
                    head = json.dumps({"stamp": 0.0, "frame": 0, "dropped": True}).encode()
                    plug.send(struct.pack(">I", len(head)) + head)
                held = 0

    with serve_sockets(serve, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        answers = list(Client(f"http://127.0.0.1:{port}").stream((float(i), encoded()) for i in range(7)))
        server.shutdown()
        thread.join(20)
    assert len(answers) == 7
    assert took[0] == 3
    assert max(took) == 3


def test_a_message_over_the_limit_ends_the_stream(service: Running) -> None:
    hidden = "gazeseg.key." + base64.urlsafe_b64encode(b"key").decode().rstrip("=")
    with connect(f"ws://127.0.0.1:{service.port}/v1/stream", subprotocols=["gazeseg.stream.v1", hidden]) as stream:
        assert stream.subprotocol == "gazeseg.stream.v1"
        # The head of a frame alone: what follows would be on its way when the connection ends, and take the close frame along.
        stream.socket.sendall(b"\x82\xff" + struct.pack(">Q", 4 * 2**20 + 1) + bytes(4))
        with pytest.raises(ConnectionClosed) as ended:
            stream.recv(10)
    assert ended.value.rcvd is not None
    assert ended.value.rcvd.code == 1009


def test_a_stream_is_told_when_the_service_ends(folder: Path, tmp_path: Path) -> None:
    with running(folder, tmp_path) as service, Client(service.url) as client:

        def frames() -> Iterator[tuple[float, bytes]]:
            yield 0.0, encoded()
            service.process.send_signal(signal.SIGTERM)
            for i in range(100_000):
                yield float(i), encoded()

        with pytest.raises(ServiceError, match="1012") as error:
            for _ in client.stream(frames(), EVERY):
                pass
        assert error.value.code == "stream-ended"
        assert service.process.wait(30) == 0
