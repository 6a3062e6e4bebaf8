"""The client against a real service, and against one that misbehaves."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import socket
import ssl
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import cv2
import httpx
import numpy as np
import pytest
from artifacts import write_artifact
from dicoms import dicom_file
from PIL import Image
from serving import PIXELS, Running, encoded, running

from gazeseg_serve import client as client_module
from gazeseg_serve.client import AsyncClient, Client, Mask, ServiceError, Source
from gazeseg_serve.client_calls import as_file
from gazeseg_serve.errors import ConfigError, GazesegError, ImageError
from gazeseg_serve.predictor import Predictor


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    write_artifact(folder)
    write_artifact(folder / "zones", classes=("zone", "core"), disagreement=False)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(
        folder, tmp_path_factory.mktemp("service"), GAZESEG_API_KEYS="secret", GAZESEG_MODELS=f"zones={folder / 'zones'}"
    ) as service:
        yield service


def test_paths_bytes_and_arrays_give_the_same_mask(service: Running, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded())
    expected = Predictor.open(folder, "cpu").predict(PIXELS).mask(0.4)
    with Client(service.url, api_key="secret") as client:
        for source in (path, str(path), encoded(), PIXELS):
            mask = client.segment(source, threshold=0.4)
            np.testing.assert_array_equal(mask.labels, expected)
            assert mask.labels.dtype == np.uint8
            assert mask.seconds["engine"] >= 0
        assert mask.model == client.model()["id"]


def test_describe_and_arrays_agree_with_the_mask(service: Running) -> None:
    with Client(service.url, api_key="secret") as client:
        mask = client.segment(PIXELS)
        arrays = client.arrays(PIXELS, disagreement=True)
        assert client.describe(PIXELS)["classes"][0]["area"] == mask.labels.sum()
    np.testing.assert_array_equal(arrays["mask"], mask.labels)
    assert arrays["disagreement"].shape == mask.labels.shape


def test_a_named_model_gives_its_labels(service: Running, folder: Path) -> None:
    with Client(service.url, api_key="secret", model="zones") as client:
        labels = client.segment(PIXELS).labels
        assert client.model()["name"] == "zones"
    np.testing.assert_array_equal(labels, Predictor.open(folder / "zones", "cpu").predict(PIXELS).mask())


def test_the_async_client_sends_many_at_once(service: Running) -> None:
    async def scenario() -> list[np.ndarray]:
        async with AsyncClient(service.url, api_key="secret") as client:
            masks = await asyncio.gather(*[client.segment(PIXELS[: 10 + i]) for i in range(20)])
            assert (await client.describe(PIXELS))["size"] == [48, 80]
            assert (await client.arrays(PIXELS))["mask"].shape == (48, 80)
            return [mask.labels for mask in masks]

    assert [labels.shape[0] for labels in asyncio.run(scenario())] == [10 + i for i in range(20)]


def test_refusals_keep_their_status_and_code(service: Running) -> None:
    with Client(service.url, api_key="secret") as client, pytest.raises(ServiceError, match="not an image") as caught:
        client.segment(b"junk")
    assert (caught.value.status, caught.value.code) == (415, "unsupported-image")
    with Client(service.url, api_key="other") as client, pytest.raises(ServiceError) as caught:
        client.segment(PIXELS)
    assert caught.value.status == 401


def test_overlay_seg_and_batch_come_as_values(service: Running, folder: Path) -> None:
    pytest.importorskip("highdicom")
    import pydicom

    slices = [dicom_file(i, np.full((20, 30), 100 * i, np.uint16)) for i in (1, 2)]
    with Client(service.url, api_key="secret") as client:
        overlay = client.overlay(PIXELS)
        assert (overlay.shape, overlay.dtype) == (PIXELS.shape, np.uint8)
        assert (overlay != PIXELS).any()
        assert pydicom.dcmread(io.BytesIO(client.dicom_seg(slices[0]))).Modality == "SEG"
        assert pydicom.dcmread(io.BytesIO(client.dicom_seg(slices))).NumberOfFrames == 2
        first, bad, last = client.batch([PIXELS, b"junk", PIXELS[:10]], threshold=0.4)
        assert client.models() == ["default", "zones"]
    expected = Predictor.open(folder, "cpu").predict(PIXELS).mask(0.4)
    assert isinstance(first, Mask)
    assert isinstance(last, Mask)
    np.testing.assert_array_equal(first.labels, expected)
    assert last.labels.shape == (10, 80)
    assert first.model == client_id(service)
    assert isinstance(bad, ServiceError)
    assert (bad.status, bad.code) == (415, "unsupported-image")


def client_id(service: Running) -> str:
    with Client(service.url, api_key="secret") as client:
        return str(client.model()["id"])


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


def misbehaving(answers: list[httpx.Response | Exception]) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    """A transport that gives these answers in turn, and the requests it has seen."""
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        answer = answers[len(seen) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.MockTransport(handle), seen


def good() -> httpx.Response:
    from gazeseg_serve.png import encode_png

    return httpx.Response(200, content=encode_png(np.eye(4, dtype=np.uint8), bilevel=True), headers={"X-Model-Id": "m"})


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses the client made, none of them slept."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def test_busy_answers_and_lost_connections_are_tried_again(pauses: list[float]) -> None:
    transport, seen = misbehaving(
        [httpx.Response(503, headers={"Retry-After": "2"}), httpx.ConnectError("gone"), httpx.Response(429), good()]
    )
    with Client("http://test", transport=transport) as client:
        np.testing.assert_array_equal(client.segment(PIXELS).labels, np.eye(4))
    assert len(seen) == 4
    assert len({request.content for request in seen}) == 1, "the retries sent the same image"
    assert pauses[0] >= 2
    assert all(0 < pause <= client_module._LONGEST_PAUSE for pause in pauses)


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


@pytest.mark.parametrize("call", ["describe", "arrays", "overlay", "dicom_seg", "batch", "model", "models"])
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


def test_a_batch_with_too_few_answers_is_no_answer() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("index.json", json.dumps({"images": [{"name": "a", "file": None, "error": {}}]}))
    transport, _ = misbehaving([httpx.Response(200, content=file.getvalue())])
    with Client("http://test", transport=transport) as client, pytest.raises(ServiceError, match="archive of masks"):
        client.batch([PIXELS, PIXELS])


def test_a_closed_client_says_so() -> None:
    client = Client("http://test")
    client.close()
    with pytest.raises(ConfigError, match="closed"):
        client.model()


def methods(kind: type) -> dict[str, inspect.Signature]:
    public = {name: value for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"}
    return {name: inspect.signature(value) for name, value in public.items()}


def test_the_async_client_has_the_same_methods() -> None:
    blocking, waiting = methods(Client), methods(AsyncClient)
    waiting["close"] = waiting.pop("aclose")
    assert blocking == waiting
    assert len(blocking) >= 9
    assert inspect.signature(Client) == inspect.signature(AsyncClient)
    for name in blocking.keys() - {"close"}:
        assert inspect.iscoroutinefunction(getattr(AsyncClient, name))
        assert f".{name}(" in client_module.__doc__, "the table of calls has it"


def spoken(request: httpx.Request) -> list[bytes]:
    """What a request says, without the boundary that is drawn anew for each."""
    boundary = request.headers.get("content-type", "").partition("boundary=")[2].encode() or b"no boundary"
    lines = [b"%s: %s" % header for header in request.headers.raw]
    return [
        line.replace(boundary, b"") for line in [request.method.encode(), str(request.url).encode(), *lines, request.content]
    ]


@pytest.mark.parametrize("name", sorted(methods(Client).keys() - {"close"}))
@pytest.mark.parametrize("outcomes", ["answers", "tries again", "gives up", "refuses"])
def test_both_clients_ask_and_answer_the_same(
    name: str, outcomes: str, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr("asyncio.sleep", sleep)
    monkeypatch.setattr("random.uniform", lambda low, high: 1.0)
    script = {
        "answers": [answer_to(name)],
        "tries again": [httpx.Response(503, headers={"Retry-After": "1"}), httpx.ReadError("reset"), answer_to(name)],
        "gives up": [httpx.ConnectError("refused")] * 3,
        "refuses": [httpx.Response(422, json={"code": "bad-parameter", "detail": "no"})],
    }[outcomes]
    arguments = {"model": (), "models": (), "batch": ([PIXELS, b"x"], 0.25)}.get(name, (PIXELS, 0.25))

    def of(call: Callable[[], Any]) -> tuple[str, Any]:
        pauses.clear()
        try:
            return repr(call()), list(pauses)
        except GazesegError as error:
            return repr((type(error), str(error), vars(error))), list(pauses)

    first, seen = misbehaving([copied(one) for one in script])
    with Client("http://test", transport=first, retries=2, api_key="k", model="m") as client:
        blocking = of(lambda: getattr(client, name)(*arguments))

    async def awaited() -> Any:
        async with AsyncClient("http://test", transport=second, retries=2, api_key="k", model="m") as client:
            return await getattr(client, name)(*arguments)

    second, seen_too = misbehaving([copied(one) for one in script])
    assert of(lambda: asyncio.run(awaited())) == blocking
    assert [spoken(request) for request in seen_too] == [spoken(request) for request in seen]
    assert len(seen) == len(script)


def copied(outcome: Any) -> Any:
    """A response is used up by its client."""
    if isinstance(outcome, Exception):
        return outcome
    return httpx.Response(outcome.status_code, headers=outcome.headers, content=outcome.content)


def answer_to(name: str) -> httpx.Response:
    """A right answer to the method of this name."""
    if name in ("segment", "overlay"):
        return good()
    if name in ("describe", "model"):
        return httpx.Response(200, json={"id": "m"})
    if name == "models":
        return httpx.Response(200, json={"default": "m", "models": ["m"]})
    file = io.BytesIO()
    if name == "arrays":
        np.savez(file, mask=np.eye(2))
    elif name == "batch":
        images = [
            {"name": "1", "file": "1.png", "error": None},
            {"name": "2", "file": None, "error": {"status": 415, "code": "unsupported-image", "detail": "no image"}},
        ]
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr("1.png", good().content)
            packed.writestr("index.json", json.dumps({"images": images}))
    else:
        file.write(bytes(128) + b"DICM")
    return httpx.Response(200, content=file.getvalue())


def test_the_client_loads_neither_torch_nor_bentoml() -> None:
    code = (
        "import sys, gazeseg_serve.client as c; c.Client('http://x').close(); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'bentoml', 'onnxruntime')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
