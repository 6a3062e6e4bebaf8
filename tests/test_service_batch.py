"""Many images in one request: an answer each, or why not, in their order."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("bentoml")
from serving import PIXELS, encoded, many, problem, serve, wait_until_ready
from starlette.testclient import TestClient

from gazeseg_serve.predictor import Predictor
from gazeseg_serve.service.settings import Settings


@pytest.fixture(scope="module")
def client(folder: Path, zones: Path) -> Iterator[TestClient]:
    settings = Settings(
        artifact=folder,
        models={"zones": zones},
        max_bytes=300_000,
        max_pixels=200_000,
        max_images=12,
        max_batch_bytes=2_000_000,
    )
    with serve(settings) as client:
        wait_until_ready(client)
        yield client


def test_a_batch_answers_a_zip_with_every_image_or_why_not(client: TestClient, folder: Path, zones: Path) -> None:
    small = PIXELS[:30, :30]
    response = client.post(
        "/v1/segment/batch",
        files=many(
            ("a.png", encoded()),
            ("../../b.png", encoded(pixels=small)),
            ("a.png", encoded(".jpg")),
            ("c.txt", b"junk"),
            ("\N{GREEK SMALL LETTER ALPHA} d.png", encoded()[:50]),
        ),
    )
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(response.content)) as packed:
        assert packed.testzip() is None
        index = json.loads(packed.read("index.json"))
        names = ["a.png", "b.png", "a-2.png", "c.txt", "\N{GREEK SMALL LETTER ALPHA} d.png"]
        assert [entry["name"] for entry in index["images"]] == names
        assert packed.namelist() == ["a.png", "b.png", "a-2.png", "index.json"]
        mask = np.asarray(Image.open(io.BytesIO(packed.read(index["images"][1]["file"]))))
        expected = Predictor.open(folder, "cpu").predict(small).mask(0.5)
        np.testing.assert_array_equal(mask, expected.astype(bool))
        assert [entry["error"] and entry["error"]["status"] for entry in index["images"]] == [None, None, None, 415, 400]
        assert index["images"][3]["file"] is None


def test_a_batch_answers_json_lines_in_order(client: TestClient) -> None:
    files = [(f"{i}.png", encoded(pixels=PIXELS[: 20 + i])) for i in range(10)]
    response = client.post(
        "/v1/segment/batch?output=json", files=many(*files, ("bad", b"x")), headers={"Accept-Encoding": "gzip"}
    )
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [line["name"] for line in lines] == [name for name, _ in files] + ["bad"]
    assert [line["size"][0] for line in lines[:-1]] == [20 + i for i in range(10)]
    assert lines[-1]["error"]["code"] == "unsupported-image"


def test_a_batch_has_limits_of_its_own(client: TestClient) -> None:
    problem(client.post("/v1/segment/batch", files=many(*[("a", b"x")] * 13)), 400, "bad-request")
    problem(client.post("/v1/segment/batch", files=many(*[("a", bytes(250_000))] * 9)), 413, "body-too-large")
    problem(
        client.post("/v1/segment/batch", content=encoded(), headers={"Content-Type": "image/png"}),
        415,
        "unsupported-media-type",
    )
    problem(client.post("/v1/segment/batch", files={"other": b"x"}), 400, "no-image")
    response = client.post("/v1/segment/batch?output=json", files=many(("big", bytes(300_001)), ("ok.png", encoded())))
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert lines[0]["error"]["status"] == 413
    assert lines[1]["size"] == [48, 80]
