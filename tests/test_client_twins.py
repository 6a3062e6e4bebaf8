"""Client and AsyncClient: the same methods, the same requests, the same answers and errors."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from misbehaving import good, misbehaving
from serving import PIXELS

from gazeseg_serve import client as client_module
from gazeseg_serve.client import AsyncClient, Client
from gazeseg_serve.errors import GazesegError


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses the client made, none of them slept."""
    made: list[float] = []
    monkeypatch.setattr("time.sleep", made.append)
    return made


def methods(kind: type) -> dict[str, inspect.Signature]:
    public = {name: value for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"}
    return {name: inspect.signature(value) for name, value in public.items()}


def test_the_async_client_has_the_same_methods() -> None:
    blocking, waiting = methods(Client), methods(AsyncClient)
    waiting["close"] = waiting.pop("aclose")
    streams = [found.pop("stream") for found in (blocking, waiting)]
    assert list(streams[0].parameters) == list(streams[1].parameters)
    assert inspect.isasyncgenfunction(AsyncClient.stream)
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


def test_every_wish_of_a_call_is_sent() -> None:
    transport, seen = misbehaving([answer_to("describe")])
    with Client("http://test", transport=transport) as client:
        client.describe(PIXELS, 0.25, True, presence=0.5, force=True)
    assert dict(seen[0].url.params) == {
        "output": "json", "threshold": "0.25", "disagreement": "true", "presence": "0.5", "force": "true"
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(methods(Client).keys() - {"close", "stream"}))
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
