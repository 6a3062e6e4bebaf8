"""What a request may carry and name, and that every refusal, of whatever layer, is a problem document."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from artifacts import write_artifact
from starlette.testclient import TestClient

pytest.importorskip("bentoml")
from serving import encoded, problem, serve, wait_until_ready

from gazeseg_serve.service import routes
from gazeseg_serve.service.settings import Settings

ORIGIN = "https://a.example"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    settings = Settings(artifact=folder, api_keys=["key"], cors_origins=(ORIGIN,), max_bytes=2**20 * 4)
    with serve(settings) as client:
        wait_until_ready(client)
        client.headers["X-API-Key"] = "key"
        yield client


def form(charset: str, name: bytes = b"image", junk: bytes = b"") -> dict[str, Any]:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a.png"\r\n\r\n%s\r\n'
    body = part % (name, encoded()) + (
        b'--b\r\nContent-Disposition: form-data; name="x-"\r\n\r\n%s\r\n' % junk if junk else b""
    )
    return {"content": body + b"--b--\r\n", "headers": {"Content-Type": f"multipart/form-data; boundary=b{charset}"}}


@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=UTF8", '; charset="utf-8"', "; charset=us-ascii"])
def test_forms_in_utf_8_are_read(client: TestClient, charset: str) -> None:
    assert client.post("/v1/segment", **form(charset)).status_code == 200


@pytest.mark.parametrize("path", ["/v1/segment", "/v1/segment/batch", "/v1/models/default/segment"])
@pytest.mark.parametrize("charset", ["punycode", "idna", "undefined", "utf-7", "utf-16", "rot13", "../x", "latin-1", ""])
def test_forms_in_another_charset_are_refused_before_they_are_read(client: TestClient, path: str, charset: str) -> None:
    answer = client.post(path, **form(f"; charset={charset}", b"image-", b"a-" * 100_000))
    problem(answer, 415, "unsupported-charset")


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/v1/segment?treshold=0.9"), ("POST", "/v1/segment?output=json&Threshold=0.1"), ("POST", "/v1/segment/batch?x=1"),
    ("POST", "/v1/segment?output[]=json"), ("GET", "/v1/model?verbose=1"), ("GET", "/v1/models/default?x"),
    ("POST", "/v1/segment?="),
])  # fmt: skip
def test_an_unknown_query_name_is_refused(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, path, files={"image": encoded()} if method == "POST" else None)
    body = problem(answer, 422, "unknown-parameter")
    assert "threshold" in str(body["detail"]) or method == "GET"


def test_a_query_name_given_twice_is_refused(client: TestClient) -> None:
    answer = client.post("/v1/segment?output=json&output=png", files={"image": encoded()})
    problem(answer, 422, "bad-parameter")


@pytest.mark.parametrize("path", ["/v1/segment", "/v1/segment/batch"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOENT])
def test_no_room_for_temporary_files_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch, path: str, code: int) -> None:
    large = encoded(".png", np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8))
    assert len(large) > 2**20, "over it a form's file is kept on disk"

    def full(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patched:
        patched.setattr(tempfile.SpooledTemporaryFile, "rollover", full)
        problem(client.post(path, files={"image": large}), 507, "storage-full")
        assert client.post("/v1/segment", content=large, headers={"Content-Type": "image/png"}).status_code == 200
    assert client.post(path, files={"image": large}).status_code == 200


@pytest.mark.parametrize(("method", "path", "headers", "status"), [
    ("POST", "/v1/segment", {"X-API-Key": "wrong"}, 401), ("POST", "/v1/segment", {"Content-Type": "text/plain"}, 415),
    ("POST", "/v1/nothing", {}, 404), ("PUT", "/v1/segment", {}, 405), ("GET", "/v1/models/none", {}, 404),
    ("POST", "/v1/segment", {"Content-Length": "99999999"}, 413), ("POST", "/v1/segment", {"Content-Type": "image/png"}, 400),
])  # fmt: skip
def test_a_page_of_an_allowed_origin_can_read_every_refusal(
    client: TestClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = client.request(method, path, headers={"Origin": ORIGIN, **headers})
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["content-type"] == "application/problem+json"
    other = client.request(method, path, headers={"Origin": "https://evil.example", **headers})
    assert "access-control-allow-origin" not in other.headers


def test_a_preflight_is_answered_and_a_foreign_one_is_a_problem(client: TestClient) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key,if-none-match,inference-header-content-length",
    }
    answer = client.options("/v1/segment", headers={"Origin": ORIGIN, **asked})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
    refused = client.options("/v1/segment", headers={"Origin": "https://evil.example", **asked})
    problem(refused, 400, "bad-request")


@pytest.mark.parametrize(("method", "path", "headers", "status"), [
    ("GET", "/page/sample1.jpg", {"Range": "bytes=5-2"}, 400), ("GET", "/page/sample1.jpg", {"Range": "bytes=99999999-"}, 416),
    ("GET", "/page/none.js", {}, 404),
    ("POST", "/page/app.js", {}, 405), ("POST", "/livez", {}, 404), ("GET", "/nothing", {}, 404),
    ("DELETE", "/readyz", {}, 404), ("PATCH", "/metrics", {}, 405), ("GET", "/page/../app.py", {}, 404),
])  # fmt: skip
def test_the_errors_of_other_layers_are_problems_too(
    client: TestClient, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer: httpx.Response = client.request(method, path, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status
    if status == 405:
        assert "allow" in answer.headers
    if status == 416:
        assert answer.headers["content-range"].startswith("bytes */")


def test_the_page_is_found_where_its_files_are_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As uv and other installers lay site-packages out."""
    write_artifact(tmp_path / "artifact")
    linked = tmp_path / "page"
    linked.mkdir()
    for file in routes.PAGE.iterdir():
        if file.is_file():
            (linked / file.name).symlink_to(file)
    shutil.copytree(routes.PAGE, tmp_path / "assets_target")
    monkeypatch.setattr(routes, "PAGE", linked)
    monkeypatch.setattr("gazeseg_serve.service.app.SWAGGER_UI", linked)
    with serve(Settings(artifact=tmp_path / "artifact")) as client:
        for path in ("/", "/page/app.js", "/docs", "/docs/assets/app.js"):
            assert client.get(path).status_code == 200, path
