"""What every request meets on its way in and out: limits, keys, counters, headers, the log line, compression."""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import io
import json
import logging
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from dicoms import dicom_file
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("bentoml")
from gated_service import gated, metric, post, scope, talk, until
from serving import encoded, problem

from gazeseg_serve.errors import ConfigError, ImageError, ImageTooLarge, MalformedImage, UnsupportedImage
from gazeseg_serve.service.keys import Keys
from gazeseg_serve.service.limits import MULTIPART_ALLOWANCE, Admission, BodyLimit, Held
from gazeseg_serve.service.model_host import Answer, ModelHost
from gazeseg_serve.service.problems import Problem, of_image
from gazeseg_serve.service.settings import Settings
from gazeseg_serve.service.telemetry import JsonFormatter, Telemetry

# The body


def plenty() -> Held:
    return Held(10**9, Telemetry())


def receiver(*bodies: bytes) -> Any:
    messages = [{"type": "http.request", "body": body, "more_body": i + 1 < len(bodies)} for i, body in enumerate(bodies)]

    async def receive() -> Any:
        return messages.pop(0)

    return receive


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6), st.integers(0, 120))
def test_a_body_is_let_through_up_to_its_limit_and_not_a_byte_further(pieces: list[bytes], limit: int) -> None:
    async def scenario() -> None:
        body, came = BodyLimit(receiver(*pieces), limit, None, plenty()), 0
        for piece in pieces:
            came += len(piece)
            if came > limit:
                with pytest.raises(Problem) as caught:
                    await body()
                assert (caught.value.status, caught.value.code) == (413, "body-too-large")
                return
            assert (await body())["body"] == piece
            assert body.seen == came

    asyncio.run(scenario())


@pytest.mark.parametrize(("announced", "refused"), [("100", False), ("101", True), (None, False), ("-5", False), ("x", False)])
def test_an_announced_length_over_the_limit_is_refused_before_any_byte_is_read(announced: str | None, refused: bool) -> None:
    async def never() -> Any:
        pytest.fail("the body was read")

    if refused:
        with pytest.raises(Problem, match="100 bytes"):
            BodyLimit(never, 100, announced, plenty())
    else:
        BodyLimit(never, 100, announced, plenty())


def test_the_announced_length_is_looked_at_on_every_route_with_its_own_limit(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder, max_bytes=2000, max_batch_bytes=50_000) as (_, gate, _, edge):

            async def status(path: str, length: int) -> int:
                sent: list[dict[str, Any]] = []

                async def send(message: Any) -> None:
                    sent.append(message)

                async def receive() -> Any:
                    return {"type": "http.disconnect"}

                await edge(
                    scope(path, content_type="multipart/form-data; boundary=b", content_length=str(length)), receive, send
                )
                return int(sent[0]["status"])

            one, many = 2000 + MULTIPART_ALLOWANCE, 50_000 + MULTIPART_ALLOWANCE
            for path in ("/v1/segment", "/v1/models/default/segment"):
                assert [await status(path, n) for n in (one, one + 1)] == [499, 413]
            for path in ("/v1/segment/batch", "/v1/models/default/segment/batch"):
                assert [await status(path, n) for n in (many, many + 1)] == [499, 413]
            assert not gate.jobs

    asyncio.run(scenario())


# Who may come in, and how many


def admission(**settings: Any) -> tuple[Admission, Telemetry]:
    telemetry = Telemetry()
    return Admission(Settings(**settings), telemetry), telemetry


@given(st.integers(1, 8), st.floats(0.01, 1), st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_places_are_counted_by_client_and_in_all(most: int, share: float, moves: list[tuple[str, bool]]) -> None:
    """Against a plain list of who is in: at most `most`, of one client at most its share, which is 1 at least."""
    door, telemetry = admission(max_queue=most, client_share=share)
    own = max(1, int(most * share))
    inside: list[tuple[str, Any]] = []
    shed = {"queue-full": 0, "client-share": 0}
    for client, comes in moves:
        mine = [entry for entry in inside if entry[0] == client]
        if not comes:
            if mine:
                inside.remove(mine[0])
                mine[0][1].__exit__(None, None, None)
            continue
        place = door.enter(client)
        wanted = "queue-full" if len(inside) >= most else "client-share" if len(mine) >= own else None
        if wanted is None:
            place.__enter__()
            inside.append((client, place))
        else:
            with pytest.raises(Problem) as caught:
                place.__enter__()
            assert (caught.value.code, caught.value.status) == (wanted, 503 if wanted == "queue-full" else 429)
            assert caught.value.headers["Retry-After"] == "1"
            shed[wanted] += 1
        assert door.total == len(inside)
    text = telemetry.render().decode()
    assert metric(text, "gazeseg_in_flight") == len(inside)
    for reason, count in shed.items():
        assert metric(text, f'gazeseg_shed_total{{reason="{reason}"}}') == count
    for _, place in inside:
        place.__exit__(None, None, None)
    assert door.total == 0
    assert metric(telemetry.render().decode(), "gazeseg_in_flight") == 0


def test_a_place_is_given_back_by_a_request_that_fails() -> None:
    door, telemetry = admission(max_queue=1)
    for _ in range(3):
        with pytest.raises(KeyError), door.enter("a"):
            raise KeyError
    assert door.total == 0
    assert metric(telemetry.render().decode(), "gazeseg_in_flight") == 0


def test_while_draining_nobody_comes_in_and_it_is_counted() -> None:
    door, telemetry = admission()
    door.draining = True
    with pytest.raises(Problem) as caught, door.enter("a"):
        pytest.fail("it came in")
    assert caught.value.headers == {"Retry-After": "5", "Connection": "close"}
    assert metric(telemetry.render().decode(), 'gazeseg_shed_total{reason="draining"}') == 1


def test_a_client_is_counted_by_its_key_else_by_its_address() -> None:
    from starlette.requests import Request

    keyed, unkeyed = Keys(["one", "two"]), Keys([])
    first, second, again = (keyed.check(Request(scope(x_api_key=key))) for key in ("one", "two", "one"))
    assert first == again != second
    assert first.startswith("key-")
    assert "one" not in first
    assert unkeyed.check(Request(scope())) == "10.0.0.9"
    assert unkeyed.check(Request(scope(x_api_key="one"))) == "10.0.0.9"
    assert unkeyed.check(Request({**scope(), "client": None})) == "unknown"


def test_comments_and_blank_lines_of_a_key_file_are_no_keys(tmp_path: Path) -> None:
    from starlette.requests import Request

    file = tmp_path / "keys"
    file.write_text("  # first\n\n  spaced  \n\t\nlast")
    keys = Keys.load(Settings(api_keys_file=file))
    for given_key in ("spaced", "last"):
        keys.check(Request(scope(authorization=f"Bearer {given_key}")))
    for wrong in ("", "# first", "first"):
        with pytest.raises(Problem):
            keys.check(Request(scope(authorization=f"Bearer {wrong}")))
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        Keys.load(Settings(api_keys_file=file))


# Answers


def test_a_method_that_is_not_allowed_says_which_is(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, _, _, _):
            refused = await client.get("/v1/segment")
            problem(refused, 405, "method-not-allowed")
            assert refused.headers["allow"] == "POST"

    asyncio.run(scenario())


def test_an_answer_under_way_tells_its_client_to_close_once_the_service_drains(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, gate, runtime, _):
            first = asyncio.ensure_future(post(client))
            await until(lambda: len(gate.jobs) == 1)
            gate.open.set()
            assert "connection" not in (await first).headers
            gate.open.clear()
            late = asyncio.ensure_future(post(client))
            await until(lambda: len(gate.jobs) == 2)
            runtime.admission.draining = True
            gate.open.set()
            answer = await late
            assert answer.status_code == 200
            assert answer.headers["connection"] == "close"

    asyncio.run(scenario())


def test_headers_of_a_route_are_not_overwritten(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, _, _, _):
            page, card = await client.get("/docs"), await client.get("/v1/model")
            assert "script-src 'self'" in page.headers["content-security-policy"]
            assert page.headers.get_list("content-security-policy") == [page.headers["content-security-policy"]]
            assert card.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
            assert card.headers["cache-control"] == "no-store"
            assert card.headers["referrer-policy"] == "no-referrer"

    asyncio.run(scenario())


def test_a_visit_that_ends_without_an_answer_is_counted_as_499_never_as_0(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, gate, _, edge):
            events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            events.put_nowait({"type": "http.request", "body": encoded(), "more_body": False})
            visit = asyncio.ensure_future(talk(edge, events, content_type="image/png"))
            await until(lambda: len(gate.jobs) == 1)
            visit.cancel()
            with pytest.raises(asyncio.CancelledError):
                await visit
            text = (await client.get("/metrics")).text
            assert metric(text, 'gazeseg_requests_total{route="/v1/segment",status="499"}') == 1
            assert 'status="0"' not in text

    with caplog.at_level(logging.INFO, "gazeseg_serve.access"):
        asyncio.run(scenario())
    assert 499 in [getattr(record, "status", None) for record in caplog.records]


def test_an_error_after_the_answer_began_sends_no_second_answer(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    from gazeseg_serve.service.edge import Edge

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("half-way")

    async def whole() -> list[int]:
        settings, telemetry = Settings(), Telemetry()
        runtime: Any = SimpleNamespace(
            settings=settings, telemetry=telemetry, keys=Keys([]), held=plenty(), admission=Admission(settings, telemetry)
        )
        edge = Edge(half, runtime)
        starts: list[int] = []

        async def send(message: Any) -> None:
            starts.append(message["status"])

        await edge(scope("/x"), receiver(b""), send)
        return starts

    with caplog.at_level(logging.ERROR, "gazeseg_serve.access"):
        assert asyncio.run(whole()) == [200]
    assert "half-way" in caplog.text


def test_the_log_line_says_what_came_and_went(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> httpx.Response:
        async with gated(folder, api_keys=("k",)) as (client, gate, _, _):
            gate.open.set()
            await client.get("/v1/model")
            return await client.post(
                "/v1/segment", content=encoded(), headers={"Content-Type": "image/png", "X-API-Key": "k", "X-Request-Id": "r.1"}
            )

    with caplog.at_level(logging.INFO, "gazeseg_serve.access"):
        answer = asyncio.run(scenario())
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records if record.name.endswith("access")]
    refused, served = (next(line for line in lines if line["status"] == status) for status in (401, 200))
    assert refused["client"] == "refused"
    assert served["request_id"] == "r.1"
    assert (served["method"], served["route"]) == ("POST", "/v1/segment")
    assert (served["bytes_in"], served["bytes_out"]) == (len(encoded()), len(answer.content))
    assert served["client"].startswith("key-")
    assert served["model"] == answer.headers["x-model-id"][:12]
    assert set(served["steps"]) == {"decode", "wait", "engine", "encode", "total"}
    assert 0 < served["steps"]["total"] <= served["seconds"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", served["time"])
    assert served["level"] == "info"


def test_every_step_is_counted_once_a_request(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, gate, _, _):
            gate.open.set()
            before = (await client.get("/metrics")).text
            for _ in range(3):
                await post(client)
            text = (await client.get("/metrics")).text
            for step in ("decode", "wait", "engine", "encode", "total"):
                name = f'gazeseg_step_seconds_count{{step="{step}"}}'
                assert metric(text, name) - metric(before, name) == 3
            assert metric(text, 'gazeseg_request_seconds_count{route="/v1/segment"}') == 3
            assert metric(text, 'gazeseg_requests_total{route="/v1/segment",status="200"}') == 3

    asyncio.run(scenario())


def test_json_is_compressed_only_from_a_kilobyte_on(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, gate, _, _):
            gate.open.set()
            rng = np.random.default_rng(0)
            for pixels, packed in (
                (np.zeros((8, 8, 3), np.uint8), False),
                (rng.integers(0, 2, (64, 64, 1), np.uint8).repeat(3, 2) * 255, True),
            ):
                for coding in ("gzip", "identity"):
                    answer = await client.post(
                        "/v1/segment?output=json", files={"image": encoded(pixels=pixels)}, headers={"Accept-Encoding": coding}
                    )
                    assert (len(json.dumps(answer.json())) >= 1024) == packed
                    assert answer.headers.get("content-encoding") == ("gzip" if packed and coding == "gzip" else None)
                    assert answer.headers["vary"] == "Accept, Accept-Encoding"

    asyncio.run(scenario())


def test_the_batch_size_of_a_series_is_its_largest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("highdicom")
    right, sizes = ModelHost.infer, iter((2, 3, 1))

    async def batched(self: ModelHost, pixels: np.ndarray) -> Answer:
        return dataclasses.replace(await right(self, pixels), batch=next(sizes))

    ramp = np.linspace(0, 4000, 24 * 32).reshape(24, 32).astype(np.uint16)

    async def scenario() -> None:
        async with gated(folder) as (client, gate, _, _):
            gate.open.set()
            monkeypatch.setattr(ModelHost, "infer", batched)
            files = [("image", (f"{i}", dicom_file(i, ramp))) for i in (1, 2, 3)]
            answer = await client.post("/v1/segment/batch?output=dicom-seg", files=files)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-batch-size"] == "3"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("sent", "name", "file"),
    [
        (".hidden.png", "hidden.png", "hidden.png"),
        ("..", "image_0001", "image_0001.png"),
        ("a b/c:d.jpg", "c_d.jpg", "c_d.png"),
        ("x" * 300, "x" * 255, "x" * 251 + ".png"),
    ],
)
def test_names_in_an_archive_are_plain(folder: Path, sent: str, name: str, file: str) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, gate, _, _):
            gate.open.set()
            answer = await client.post("/v1/segment/batch", files=[("image", (sent, encoded()))])
            with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
                index = json.loads(packed.read("index.json"))
                assert packed.namelist() == [file, "index.json"]
                assert [(entry["name"], entry["file"], entry["error"]) for entry in index["images"]] == [(name, file, None)]
                assert index["threshold"] == 0.5

    asyncio.run(scenario())


def test_a_large_archive_comes_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gazeseg_serve.service import archive

    monkeypatch.setattr(archive, "_CHUNK", 1000)
    rng = np.random.default_rng(0)
    files = [("image", (f"{i}.png", encoded(pixels=rng.integers(0, 256, (100, 100, 3), dtype=np.uint8)))) for i in range(4)]

    async def scenario() -> None:
        async with gated(folder) as (client, gate, _, _):
            gate.open.set()
            answer = await client.post("/v1/segment/batch?output=npz", files=files)
            assert len(answer.content) > 10_000
            with zipfile.ZipFile(io.BytesIO(answer.content)) as packed:
                assert packed.testzip() is None
                assert len(packed.namelist()) == 5

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (MalformedImage("m"), 400, "malformed-image"),
        (ImageTooLarge("m"), 413, "image-too-large"),
        (UnsupportedImage("m"), 415, "unsupported-image"),
        (ImageError("m"), 422, "unsuitable-image"),
    ],
)
def test_each_kind_of_image_error_has_its_status(error: ImageError, status: int, code: str) -> None:
    found = of_image(error)
    assert (found.status, found.code, found.detail) == (status, code, "m")


def test_a_bad_parameter_is_named_with_what_is_wrong(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, _, _, _):
            body = problem(await post(client, "/v1/segment?threshold=2&disagreement=maybe"), 422, "bad-parameter")
            assert {wrong["parameter"] for wrong in body["errors"]} == {"threshold", "disagreement"}  # type: ignore[attr-defined]
            assert "threshold" in str(body["detail"])

    asyncio.run(scenario())


def test_an_answer_compressed_for_one_is_the_same_for_all(folder: Path) -> None:
    """The ETag is of the wish, and a compressed answer holds no time of its own."""

    async def scenario() -> None:
        async with gated(folder) as (client, gate, _, _):
            gate.open.set()
            noise = np.random.default_rng(1).integers(0, 2, (64, 64, 1), np.uint8).repeat(3, 2) * 255

            async def raw() -> bytes:
                request = client.build_request(
                    "POST",
                    "/v1/segment?output=json",
                    files={"image": encoded(pixels=noise)},
                    headers={"Accept-Encoding": "gzip"},
                )
                answer = await client.send(request, stream=True)
                return b"".join([piece async for piece in answer.aiter_raw()])

            first = await raw()
            assert gzip.decompress(first).startswith(b"{")
            assert first == await raw()

    asyncio.run(scenario())


def test_a_path_that_is_no_route_is_counted_as_other(folder: Path) -> None:
    async def scenario() -> None:
        async with gated(folder) as (client, _, _, _):
            await client.get("/wp-login.php")
            text = (await client.get("/metrics")).text
            assert metric(text, 'gazeseg_requests_total{route="other",status="404"}') == 1
            assert metric(text, 'gazeseg_request_seconds_count{route="other"}') == 1
            assert "wp-login" not in text

    asyncio.run(scenario())
