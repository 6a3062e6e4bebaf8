"""The HTTP interface, in process: routes, answers, refusals, headers, metrics."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import write_artifact
from PIL import Image

pytest.importorskip("bentoml")
from serving import PIXELS, encoded, problem, serve, wait_until_ready
from starlette.testclient import TestClient

from gazeseg_serve import cpus
from gazeseg_serve.predictor import Predictor
from gazeseg_serve.presence import Presence
from gazeseg_serve.service.app import build
from gazeseg_serve.service.plain_errors import ProblemsOnly
from gazeseg_serve.service.settings import Settings


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with serve(Settings(artifact=folder, max_bytes=200_000, max_pixels=100_000)) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    return Predictor.open(folder, "cpu").predict(PIXELS).mask(0.5)


def test_a_multipart_image_gives_its_mask(client: TestClient, expected: np.ndarray) -> None:
    response = client.post("/v1/segment", files={"image": ("eye.png", encoded())})
    assert response.status_code == 200
    assert response.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.content))), expected.astype(bool))


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "image/png; charset=binary"])
def test_a_raw_body_gives_its_mask(client: TestClient, expected: np.ndarray, kind: str) -> None:
    response = client.post("/v1/segment", content=encoded(), headers={"Content-Type": kind})
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.content))), expected.astype(bool))


def test_headers_name_the_model_and_the_time_of_each_step(client: TestClient, folder: Path) -> None:
    response = client.post("/v1/segment", files={"image": encoded()})
    artifact = json.loads((folder / "manifest.json").read_text())
    assert response.headers["x-model-id"] == artifact["id"]
    steps = dict(part.strip().split(";dur=") for part in response.headers["server-timing"].split(",") if "dur" in part)
    assert set(steps) == {"decode", "wait", "engine", "encode", "total"}
    values = {name: float(value) for name, value in steps.items()}
    assert values.pop("total") == pytest.approx(sum(values.values()), abs=0.05)
    assert all(value >= 0 for value in values.values())


def test_json_answers_for_the_image_as_sent(client: TestClient, expected: np.ndarray) -> None:
    answer = client.post("/v1/segment?output=json", files={"image": encoded()}).json()
    assert answer["size"] == [48, 80]
    assert answer["classes"][0]["area"] == expected.sum()
    assert 0 < answer["mean_disagreement"] < 0.5


@pytest.mark.parametrize("output", ["probability", "overlay", "npz"])
def test_the_other_outputs_answer(client: TestClient, output: str) -> None:
    response = client.post(f"/v1/segment?output={output}", files={"image": encoded()})
    assert response.status_code == 200
    if output == "npz":
        with np.load(io.BytesIO(response.content)) as stored:
            assert stored["mask"].shape == (48, 80)
    else:
        assert Image.open(io.BytesIO(response.content)).size == (80, 48)


@pytest.fixture(scope="module")
def wary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service of a model that marks nothing under a presence that PIXELS do not reach."""
    folder = tmp_path_factory.mktemp("wary")
    write_artifact(folder, presence=Presence(0.001, 1.0, 0.0, 0.999, 0.1, 0.0, 9, 9))
    with serve(Settings(artifact=folder)) as client:
        wait_until_ready(client)
        yield client


def test_an_image_that_shows_nothing_gets_an_empty_mask_and_says_why(wary: TestClient, expected: np.ndarray) -> None:
    answer = wary.post("/v1/segment?output=json", files={"image": encoded()}).json()
    assert answer["classes"][0]["area"] == 0
    assert 0 < answer["presence"] < answer["presence_threshold"] == 0.999
    off = wary.post("/v1/segment?output=json&presence=0", files={"image": encoded()}).json()
    assert off["classes"][0]["area"] == expected.sum()
    assert (off["presence"], off["presence_threshold"]) == (answer["presence"], 0)
    png = wary.post("/v1/segment", files={"image": encoded()})
    assert not np.asarray(Image.open(io.BytesIO(png.content))).any()
    assert png.headers["etag"] != wary.post("/v1/segment?presence=0", files={"image": encoded()}).headers["etag"]
    assert wary.get("/v1/model").json()["presence"]["alarm_rate"] == 0.1


def test_a_presence_that_cannot_be_held_is_refused(wary: TestClient, client: TestClient) -> None:
    for value in ("1.5", "-0.1", "nan", "x"):
        problem(wary.post(f"/v1/segment?presence={value}", files={"image": encoded()}), 422, "bad-parameter")
    problem(client.post("/v1/segment?presence=0.5", files={"image": encoded()}), 422, "bad-parameter")
    assert client.post("/v1/segment?presence=0", files={"image": encoded()}).status_code == 200
    assert client.post("/v1/segment?output=json", files={"image": encoded()}).json()["presence"] is None


def test_a_batch_obeys_the_presence(wary: TestClient, expected: np.ndarray) -> None:
    for query, area in (("", 0), ("&presence=0", int(expected.sum()))):
        answer = wary.post(f"/v1/segment/batch?output=json{query}", files=[("image", ("a.png", encoded()))])
        assert json.loads(answer.text)["classes"][0]["area"] == area


def test_the_threshold_moves_the_mask(client: TestClient) -> None:
    areas = [
        client.post(f"/v1/segment?output=json&threshold={t}", files={"image": encoded()}).json()["classes"][0]["area"]
        for t in (0, 0.4, 0.6, 1)
    ]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] == 48 * 80
    assert areas[-1] == 0


def test_exif_orientation_is_honoured(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", exif=exif)
    response = client.post("/v1/segment", files={"image": file.getvalue()})
    assert Image.open(io.BytesIO(response.content)).size == (48, 80)


@pytest.mark.parametrize(
    "query",
    [
        "output=gif",
        "threshold=2",
        "threshold=-0.1",
        "threshold=nan",
        "threshold=inf",
        "threshold=high",
        "disagreement=maybe",
        "output=png&disagreement=true",
    ],
)
def test_a_bad_parameter_is_422(client: TestClient, query: str) -> None:
    problem(client.post(f"/v1/segment?{query}", files={"image": encoded()}), 422, "bad-parameter")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"", 400, "malformed-image"),
        (encoded()[:60], 400, "malformed-image"),
        (encoded(".jpg")[:300], 400, "malformed-image"),
        (b"GIF89a" + bytes(100), 415, "unsupported-image"),
        (b"no image at all", 415, "unsupported-image"),
        (bytes(200_001), 413, "image-too-large"),
        (bytes(400_000), 413, "body-too-large"),
    ],
)
def test_junk_is_refused_by_name(client: TestClient, content: bytes, status: int, code: str) -> None:
    problem(client.post("/v1/segment", content=content, headers={"Content-Type": "image/png"}), status, code)


def test_a_body_that_grows_over_the_limit_is_refused_without_its_length(client: TestClient) -> None:
    chunks = (bytes(50_000) for _ in range(20))
    problem(client.post("/v1/segment", content=chunks, headers={"Content-Type": "image/png"}), 413, "body-too-large")


def bomb(side: int) -> bytes:
    """A small PNG whose header says side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header(client: TestClient) -> None:
    problem(client.post("/v1/segment", files={"image": bomb(60_000)}), 413, "image-too-large")
    body = problem(client.post("/v1/segment", files={"image": bomb(400)}), 413, "image-too-large")
    assert "400 x 400" in str(body["detail"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json"},
        {},
        {"Content-Type": "application/vnd.bentoml+pickle"},
    ],
)
def test_other_content_types_are_415(client: TestClient, headers: dict[str, str]) -> None:
    problem(client.post("/v1/segment", content=encoded(), headers=headers), 415, "unsupported-media-type")


def test_forms_without_the_image_are_400(client: TestClient) -> None:
    problem(client.post("/v1/segment", files={"picture": encoded()}), 400, "no-image")
    problem(
        client.post("/v1/segment", files={"picture": ("a", b"x")}, data={"image": "http://127.0.0.1:1/x.png"}), 400, "no-image"
    )
    problem(client.post("/v1/segment", content=b"junk", headers={"Content-Type": "multipart/form-data"}), 400, "bad-request")


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    problem(client.get("/no/such/path"), 404, "not-found")
    problem(client.get("/v1/segment"), 405, "method-not-allowed")


def test_the_model_card_names_what_is_served(client: TestClient, folder: Path) -> None:
    card = client.get("/v1/model").json()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert card["engine"] == "onnxruntime-cpu"
    for name in ("id", "strategy", "precision", "threshold", "input"):
        assert card[name] == manifest[name]


def test_the_model_card_says_how_many_cpus_there_are_and_what_has_how_many_threads(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cpus, "available", lambda: 3)
    for settings, engine in (Settings(artifact=folder), 3), (Settings(artifact=folder, threads=1), 1):
        with serve(settings) as client:
            wait_until_ready(client)
            found = client.get("/v1/model").json()["cpus"]
            assert found == {"available": 3, "engine_threads": engine, "codec_threads": 3}


def test_the_probes_answer(client: TestClient) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_the_docs_load_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "http" not in page.text.replace("HTTP", "")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in ("/docs/assets/swagger-ui-bundle.js", "/docs/assets/swagger-ui.css", "/page/docs.js", "/openapi.json"):
        assert client.get(name).status_code == 200
    assert "/v1/segment" in client.get("/openapi.json").json()["paths"]


def test_every_answer_has_security_headers_and_a_request_id(client: TestClient) -> None:
    for response in (client.get("/v1/model"), client.get("/nowhere"), client.post("/v1/segment", content=b"")):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert len(response.headers["x-request-id"]) == 32
    assert client.get("/v1/model", headers={"X-Request-Id": "ward-7.42"}).headers["x-request-id"] == "ward-7.42"
    assert client.get("/v1/model", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"] != "a b\tc"


def test_metrics_count_requests_and_batches(client: TestClient) -> None:
    def value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next((line.rsplit(" ", 1)[1] for line in lines if line.startswith(name)), 0))

    served, refused = 'gazeseg_requests_total{route="/v1/segment",status="200"}', 'gazeseg_batch_size_count{model="default"}'
    before = value(served), value(refused)
    client.post("/v1/segment", files={"image": encoded()})
    assert (value(served), value(refused)) == (before[0] + 1, before[1] + 1)
    client.get("/some/random/path")
    assert "random" not in client.get("/metrics").text


def test_with_tracing_on_requests_go_through_bentomls_layers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    through: list[str] = []

    class Seen(ProblemsOnly):
        """What stands around BentoML's app."""

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert any("OpenTelemetry" in layer.cls.__name__ for layer in self.app.user_middleware)  # type: ignore[attr-defined]
            through.append(scope.get("path", ""))
            await super().__call__(scope, receive, send)

    monkeypatch.setattr("gazeseg_serve.service.app.ProblemsOnly", Seen)
    for disabled, wanted in (("false", True), ("true", False)):
        through.clear()
        monkeypatch.setenv("OTEL_SDK_DISABLED", disabled)
        with TestClient(build(Settings(artifact=folder)).to_asgi(is_main=True)) as client:
            wait_until_ready(client)
            assert client.post("/v1/segment", files={"image": encoded()}).status_code == 200
        assert ("/v1/segment" in through) is wanted


def test_a_broken_artifact_is_not_ready_and_not_alive(tmp_path: Path) -> None:
    write_artifact(tmp_path)
    (tmp_path / "model.onnx").write_bytes(b"changed")
    with serve(Settings(artifact=tmp_path)) as client:
        end = time.monotonic() + 10
        while client.get("/livez").status_code == 200:
            assert time.monotonic() < end
            time.sleep(0.02)
        assert client.get("/readyz").status_code == 503
        response = client.post("/v1/segment", files={"image": encoded()})
        problem(response, 503, "starting")
        assert int(response.headers["retry-after"]) > 0
