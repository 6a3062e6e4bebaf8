"""What the client can take decides what it gets: outputs, encodings, entity tags; and the model by its name."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("bentoml")
from serving import PIXELS, encoded, problem, serve, wait_until_ready
from starlette.testclient import TestClient

from gazeseg_serve.predictor import Predictor
from gazeseg_serve.service.negotiate import matches, output_for, preferences
from gazeseg_serve.service.problems import Problem
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


@pytest.mark.parametrize(
    ("accept", "output"),
    [
        ("", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("image/png", "png"),
        ("application/json", "json"),
        ("application/x-npz", "npz"),
        ("application/dicom", "dicom-seg"),
        ("application/*", "json"),
        ("text/html, application/json;q=0.9, */*;q=0.1", "json"),
        ("image/png;q=0.1, application/json;q=0.5", "json"),
        ("image/png;q=0, application/json", "json"),
        ("IMAGE/PNG", "png"),
        ("image/png;q=junk, application/json", "json"),
    ],
)
def test_accept_chooses_the_output(accept: str, output: str) -> None:
    assert output_for(accept) == output


@pytest.mark.parametrize("accept", ["text/html", "image/gif", "image/png;q=0", "*/*;q=0", ";;;"])
def test_accept_that_takes_nothing_is_406(accept: str) -> None:
    with pytest.raises(Problem) as caught:
        output_for(accept)
    assert caught.value.status == 406


def test_weights_outside_their_range_are_clipped() -> None:
    assert preferences("a;q=7, b;q=-1") == [("a", 1.0), ("b", 0.0)]


def test_the_query_beats_accept(client: TestClient) -> None:
    response = client.post("/v1/segment?output=png", files={"image": encoded()}, headers={"Accept": "application/json"})
    assert response.headers["content-type"] == "image/png"
    response = client.post("/v1/segment", files={"image": encoded()}, headers={"Accept": "application/json"})
    assert response.json()["size"] == [48, 80]
    problem(client.post("/v1/segment", files={"image": encoded()}, headers={"Accept": "text/html"}), 406, "not-acceptable")


def test_json_is_compressed_where_the_client_takes_it(client: TestClient) -> None:
    def post(encoding: str) -> bytes:
        with client.stream(
            "POST", "/v1/segment?output=json", files={"image": encoded()}, headers={"Accept-Encoding": encoding}
        ) as response:
            assert ("gzip" in response.headers.get("content-encoding", "")) == ("gzip" in encoding and "q=0" not in encoding)
            assert "accept-encoding" in response.headers["vary"].lower()
            return b"".join(response.iter_raw())

    plain, packed = post("identity"), post("gzip")
    assert json.loads(gzip.decompress(packed)) == json.loads(plain)
    assert len(packed) < len(plain)
    assert post("gzip;q=0") == plain


def test_a_compressed_body_is_refused(client: TestClient) -> None:
    response = client.post(
        "/v1/segment", content=gzip.compress(encoded()), headers={"Content-Type": "image/png", "Content-Encoding": "gzip"}
    )
    problem(response, 415, "unsupported-encoding")


def test_the_etag_knows_the_image_the_model_and_the_wish(client: TestClient) -> None:
    def tag(path: str = "/v1/segment", image: bytes = encoded(), **headers: str) -> str:
        response = client.post(path, files={"image": image}, headers=headers)
        assert response.status_code == 200
        return response.headers["etag"]

    first = tag()
    assert first == tag()
    others = {
        tag("/v1/segment?threshold=0.4"),
        tag("/v1/segment?output=json"),
        tag("/v1/models/zones/segment"),
        tag(image=encoded(".jpg")),
    }
    assert len(others | {first}) == 5
    response = client.post("/v1/segment", files={"image": encoded()}, headers={"If-None-Match": f'"x", {first}'})
    problem(response, 412, "same-answer")
    assert tag(**{"If-None-Match": '"other"'}) == first


def test_a_star_matches_any_tag() -> None:
    assert matches("*", 'W/"a"')
    assert matches('"a"', 'W/"a"')
    assert not matches("", 'W/"a"')


def test_models_are_served_by_name(client: TestClient, folder: Path, zones: Path) -> None:
    assert client.get("/v1/models").json() == {"default": "default", "models": ["default", "zones"]}
    card = client.get("/v1/models/zones").json()
    assert card["input"]["classes"] == ["zone", "core"]
    response = client.post("/v1/models/zones/segment", files={"image": encoded()})
    assert response.headers["x-model-id"] == card["id"]
    expected = Predictor.open(zones, "cpu").predict(PIXELS).mask()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(response.content))), expected)
    problem(client.get("/v1/models/none"), 404, "no-such-model")
    problem(client.post("/v1/models/none/segment", files={"image": encoded()}), 404, "no-such-model")
    problem(client.post("/v1/models/zones/segment?output=probability", files={"image": encoded()}), 422, "bad-parameter")
    problem(
        client.post("/v1/models/zones/segment?output=json&disagreement=true", files={"image": encoded()}), 422, "bad-parameter"
    )


def test_colour_and_grey_tiffs_are_read(client: TestClient) -> None:
    grey = cv2.imencode(".tif", np.full((20, 30), 257 * 234, np.uint16))[1].tobytes()
    answer = client.post("/v1/segment?output=json", files={"image": grey}).json()
    assert answer["classes"][0]["area"] == 600
