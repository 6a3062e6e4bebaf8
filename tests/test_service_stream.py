"""WS /v1/stream in this process: every frame is answered once, nothing piles up, and keys and limits hold as everywhere."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("bentoml")
from artifacts import write_artifact
from serving import encoded, images, serve, wait_until_ready
from starlette.testclient import TestClient, WebSocketDenialResponse, WebSocketTestSession
from starlette.websockets import WebSocketDisconnect

from gazeseg_serve.predictor import Predictor
from gazeseg_serve.presence import Presence
from gazeseg_serve.service.settings import Settings
from gazeseg_serve.video.settings import Steadiness
from gazeseg_serve.video.steady import FrameSegmenter

RULE = Presence(share=0.05, slope=1.0, offset=0.0, threshold=0.6, alarm_rate=0.1, suppressed=0.0, with_target=1, without=1)


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with serve(Settings(artifact=folder, models={"second": folder})) as client:
        wait_until_ready(client)
        yield client


def packed(data: bytes, **head: Any) -> bytes:
    text = json.dumps(head).encode()
    return struct.pack(">I", len(text)) + text + data


def answer(socket: WebSocketTestSession) -> tuple[dict[str, Any], bytes]:
    message = socket.receive_bytes()
    (length,) = struct.unpack_from(">I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def labels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def png(picture: np.ndarray) -> bytes:
    return encoded(pixels=picture)


@pytest.mark.parametrize("path", ["/v1/stream", "/v1/models/second/stream"])
def test_every_frame_gets_its_own_mask_in_order(path: str, client: TestClient, folder: Path) -> None:
    predictor = Predictor.open(folder, "cpu")
    with client.websocket_connect(f"{path}?order=every") as socket:
        for i, picture in enumerate(images(6)):
            socket.send_bytes(packed(png(picture), stamp=i / 25, threshold=0.45))
            head, content = answer(socket)
            np.testing.assert_array_equal(labels(content), predictor.predict(picture).mask(0.45))
            assert (head["frame"], head["stamp"], head["dropped"]) == (i, i / 25, False)
            assert head["model"] == predictor.artifact.id
            assert head["size"] == list(picture.shape[:2])
            assert head["seconds"]["total"] > 0


def test_outputs_and_thresholds_of_the_query(client: TestClient) -> None:
    with client.websocket_connect("/v1/stream?output=json&threshold=0.9&disagreement=true") as socket:
        socket.send_bytes(packed(encoded(), stamp=0))
        head, content = answer(socket)
        described = json.loads(content)
        assert head["media_type"] == "application/json"
        assert described["threshold"] == 0.9
        assert described["classes"][0]["area"] == 0
        assert described["disagreement_png"]
        socket.send_bytes(packed(encoded(), stamp=1, threshold=0.0))
        assert json.loads(answer(socket)[1])["classes"][0]["area_share"] == 1


def test_masks_are_steadied_over_the_stamps_of_the_frames(client: TestClient, folder: Path) -> None:
    segment = FrameSegmenter(Predictor.open(folder, "cpu"), Steadiness(0.3))
    rng, stamps = np.random.default_rng(1), [0.0, 0.04, 0.1, 0.5, 0.52]
    pictures = [rng.integers(60, 200, (40, 40, 3), dtype=np.uint8) for _ in stamps]
    with client.websocket_connect("/v1/stream?order=every&smooth=0.3") as socket:
        for stamp, picture in zip(stamps, pictures, strict=True):
            socket.send_bytes(packed(png(picture), stamp=stamp))
            np.testing.assert_array_equal(labels(answer(socket)[1]), segment(picture, stamp).mask())


def test_presence_has_hysteresis_and_is_told(tmp_path: Path) -> None:
    write_artifact(tmp_path, presence=RULE)
    with serve(Settings(artifact=tmp_path)) as client:
        wait_until_ready(client)
        found = []
        with client.websocket_connect("/v1/stream?release=0.8&threshold=0.1&order=every") as socket:
            for grey in (135, 170, 135, 120, 135):
                socket.send_bytes(packed(png(np.full((32, 32, 3), grey, np.uint8)), stamp=float(len(found))))
                head, content = answer(socket)
                assert head["presence"] == pytest.approx(grey / 255, abs=1e-3), "the logistic of the log odds"
                found.append(bool(labels(content).any()))
        assert found == [False, True, True, False, False]


def test_a_frame_that_is_no_image_is_refused_and_the_stream_goes_on(client: TestClient) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(packed(b"junk", stamp=1))
        head, content = answer(socket)
        assert head["problem"]["status"] == 415
        assert (head["frame"], head["stamp"], content) == (0, 1, b"")
        socket.send_bytes(packed(encoded(), stamp=2, presence=0.5))
        assert answer(socket)[0]["problem"]["code"] == "bad-parameter"
        socket.send_bytes(packed(encoded(), stamp=2))
        head, content = answer(socket)
        assert head["frame"] == 2
        assert labels(content).shape == (48, 80)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", 1007),
        (b"\0\0", 1007),
        (b"\xff\xff\xff\xff{}", 1007),
        (struct.pack(">I", 9) + b"{}", 1007),
        (struct.pack(">I", 2) + b"{]", 1007),
        (packed(b"", stamp="1"), 1007),
        (packed(b"", stamp=float("nan")), 1007),
        (packed(b"", stamp=1, treshold=0.5), 1007),
        (packed(b"", stamp=1, threshold=2), 1007),
        (packed(b""), 1007),
        ("text", 1003),
    ],
)
def test_messages_that_are_none_end_the_stream_with_a_code(message: bytes | str, code: int, client: TestClient) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(message) if isinstance(message, bytes) else socket.send_text(message)
        with pytest.raises(WebSocketDisconnect) as ended:
            socket.receive_bytes()
    assert ended.value.code == code
    assert ended.value.reason


def refused(client: TestClient, path: str = "/v1/stream", status: int = 422, **options: Any) -> dict[str, Any]:
    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect(path, **options):
        pass
    assert denied.value.status_code == status
    assert denied.value.headers["content-type"] == "application/problem+json"
    return denied.value.json()


@pytest.mark.parametrize(
    "query",
    [
        "output=dicom-seg",
        "treshold=1",
        "threshold=2",
        "threshold=nan",
        "order=oldest",
        "smooth=-1",
        "presence=0.5",
        "threshold=0.1&threshold=0.2",
        "release=0",
    ],
)
def test_a_query_that_cannot_be_is_refused_before_the_stream(query: str, client: TestClient) -> None:
    assert refused(client, f"/v1/stream?{query}")["code"] == "bad-parameter"


def test_paths_and_origins(client: TestClient) -> None:
    assert refused(client, "/v1/models/none/stream", 404)["code"] == "no-such-model"
    assert refused(client, "/v1/streams", 404)["code"] == "not-found"
    assert refused(client, status=403, headers={"origin": "http://evil.example"})["code"] == "foreign-origin"
    with client.websocket_connect("/v1/stream", headers={"origin": "http://testserver"}) as socket:
        socket.send_bytes(packed(encoded(), stamp=1))
        assert answer(socket)[1]


def test_keys_in_headers_or_in_a_subprotocol_and_streams_a_client(folder: Path) -> None:
    settings = Settings(artifact=folder, api_keys=("geheim-ä", "other"), max_streams=3, client_share=0.4)
    with serve(settings) as client:
        wait_until_ready(client)
        assert refused(client, status=401)["code"] == "no-key"
        assert refused(client, status=401, headers={"x-api-key": "wrong"})["code"] == "wrong-key"
        hidden = "gazeseg.key." + base64.urlsafe_b64encode("geheim-ä".encode()).decode().rstrip("=")
        assert refused(client, status=401, subprotocols=["gazeseg.key.!!!"])["code"] == "no-key"
        with client.websocket_connect("/v1/stream", subprotocols=["gazeseg.stream.v1", hidden]) as socket:
            assert socket.accepted_subprotocol == "gazeseg.stream.v1"
            socket.send_bytes(packed(encoded(), stamp=1))
            assert labels(answer(socket)[1]).shape == (48, 80)
            assert refused(client, status=429, subprotocols=[hidden])["code"] == "client-share"
            with client.websocket_connect("/v1/stream", headers={"authorization": "Bearer other"}):
                pass
        with client.websocket_connect("/v1/stream", subprotocols=[hidden]) as socket:
            assert socket.accepted_subprotocol is None


def test_the_metrics_tell_of_streams(client: TestClient) -> None:
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_bytes(packed(encoded(), stamp=1))
        answer(socket)
        text = client.get("/metrics").text
        assert "gazeseg_streams 1.0" in text
        assert 'gazeseg_stream_frames_total{outcome="answered"}' in text
        assert "gazeseg_stream_frame_seconds_count" in text
    text = client.get("/metrics").text
    assert "gazeseg_streams 0.0" in text
    assert 'gazeseg_requests_total{route="/v1/stream",status="101"}' in text
