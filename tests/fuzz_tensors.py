"""Broken requests of the Open Inference Protocol, each made from a random generator alone."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from fuzz_requests import Case, head, plain

SIDE = 32  # of the tests' tiny artifact
_SIZE = SIDE * SIDE * 3
_PATHS = ("/v2/models/default/infer", "/v2/models/default/infer", "/v2/models/default/versions/1/infer")
# What may stand where something else is meant.
_STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**63,
    10**400,
    0.5,
    1e308,
    "",
    "image",
    "\ud800",
    "\x00" * 50,
    "x" * 5000,
    [],
    [[]],
    [None],
    {},
    {"a": {"b": [1]}},
    [1, 32, 32, 3],
    [2**40, 2**40, 1, 3],
]


def _asked(rng: random.Random, batch: int, binary: bool) -> dict[str, Any]:
    """A good request."""
    tensor: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [batch, SIDE, SIDE, 3]}
    if binary:
        tensor["parameters"] = {"binary_data_size": batch * _SIZE}
    else:
        tensor["data"] = list(rng.randbytes(batch * _SIZE))
    request: dict[str, Any] = {"inputs": [tensor]}
    if rng.random() < 0.4:
        names = rng.sample(("probability", "disagreement"), rng.randrange(1, 3))
        request["outputs"] = [{"name": name, "parameters": {"binary_data": rng.random() < 0.5}} for name in names]
    if rng.random() < 0.3:
        request["parameters"] = {"binary_data_output": rng.random() < 0.8}
    if rng.random() < 0.3:
        request["id"] = rng.choice(("7", "", "ü", "x" * 1024))
    return request


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every field of a request; of numbers of data the first alone."""
    if isinstance(value, dict):
        return [(value, key) for key in value] + [place for part in value.values() for place in _places(part)]
    if isinstance(value, list):
        return [(value, index) for index in range(min(len(value), 4))] + [
            place for part in value[:4] for place in _places(part)
        ]
    return []


def _changed(rng: random.Random, request: dict[str, Any]) -> dict[str, Any]:
    """Replace, take away or add fields, or double what a list holds."""
    request = copy.deepcopy(request)
    for _ in range(rng.choice((1, 1, 2, 5))):
        places = _places(request)
        if not places:
            break
        holder, key = rng.choice(places)
        action = rng.randrange(4)
        if action == 0:
            holder[key] = copy.deepcopy(rng.choice(_STRANGE))
        elif action == 1:
            del holder[key]
        elif action == 2 and isinstance(holder, dict):
            holder[rng.choice(("x", "parameters", "data", "binary_data_size", "shared_memory_region", "id", ""))] = (
                copy.deepcopy(rng.choice(_STRANGE))
            )
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
    return request


def _sent(rng: random.Random, text: bytes, blob: bytes | None, kind: str) -> Case:
    path = rng.choice(_PATHS)
    if blob is None:
        return Case(kind, plain(path, text, "application/json"))
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return Case(kind, plain(path, text + blob, "application/octet-stream", **headers))


def _fields(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    batch, binary = rng.choice((1, 1, 1, 3)), rng.random() < 0.6
    text = json.dumps(_changed(rng, _asked(rng, batch, binary))).encode()
    return _sent(rng, text, rng.randbytes(batch * _SIZE) if binary else None, "fields")


def _good(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    batch, binary = rng.choice((1, 1, 2, 5)), rng.random() < 0.7
    text = json.dumps(_asked(rng, batch, binary)).encode()
    return _sent(rng, text, rng.randbytes(batch * _SIZE) if binary else None, "good")


def _broken_text(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    from fuzzing import mutate

    text = json.dumps(_asked(rng, 1, rng.random() < 0.8)).encode()
    text = rng.choice(
        (
            mutate(text, rng),
            text[: rng.randrange(len(text))],
            b"[" * rng.choice((10, 1000, 200_000)),
            b'{"inputs":' * rng.choice((10, 5000)),
            text.replace(b"UINT8", rng.choice((b"FP32", b"BYTES", b"uint8", b"INT64", b"BOOL"))),
            text.replace(b"1, 32", rng.choice((b"NaN, 32", b"Infinity, 32", b"1e0, 32", b"-0, 32", b"9" * 5000 + b", 32"))),
            b"\xef\xbb\xbf" + text,
            text.decode().encode("utf-16"),
            b'{"inputs": [' + b"[],".join([b""] * rng.choice((2, 100_000))) + b"]}",
        )
    )
    return _sent(rng, text, rng.randbytes(rng.choice((0, 1, _SIZE))) if rng.random() < 0.5 else None, "text")


def _lengths(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    text = json.dumps(_asked(rng, 1, True)).encode()
    blob = rng.randbytes(max(0, _SIZE + rng.choice((-_SIZE, -1, 0, 0, 1, 1000))))
    right, other = len(text), (0, -1, 2**40, "", "0x10", "1 2", "+5", "9" * 500, len(text) + len(blob))
    told = rng.choice((right, right, right, right + 1, right - 1, *other))
    headers = {"Inference-Header-Content-Length": str(told)}
    return Case("lengths", plain(rng.choice(_PATHS), text + blob, "application/octet-stream", **headers))


def _headers(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    text = json.dumps(_asked(rng, 1, False)).encode()
    strange = {
        "Content-Type": rng.choice(
            ("", "image/png", "application/json; charset=utf-16", "\xff", "multipart/form-data; boundary=x")
        ),
        "Content-Encoding": rng.choice(("gzip", "deflate", "identity, gzip")),
        "Accept": rng.choice(("", "image/png", ";;q=,")),
        "Accept-Encoding": rng.choice(("gzip", "deflate", "br;q=x")),
        "Inference-Header-Content-Length": rng.choice(("\xb2", "", "1,2", str(len(text)))),
        "X-Request-Id": rng.choice(("", "x" * 9000, "{}")),
        "Content-Length": rng.choice(("-1", "abc", "0", str(len(text) + 5), "99999999999999999999")),
        "Transfer-Encoding": rng.choice(("chunked", "gzip, chunked")),
    }
    headers = {"Host": "test", "Connection": "close", "Content-Type": "application/json", "Content-Length": str(len(text))}
    headers.update({name: strange[name] for name in rng.sample(sorted(strange), rng.randrange(1, 4))})
    return Case("headers", [head(rng.choice(_PATHS), headers), text], leaves=True)


def _large(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    """Much of it, within what a body may have or just over."""
    batch = rng.choice((19, 20, 21, 300, 700))
    request = _asked(rng, 1, True)
    request["inputs"][0]["shape"][0] = batch
    request["inputs"][0]["parameters"]["binary_data_size"] = batch * _SIZE
    return _sent(rng, json.dumps(request).encode(), bytes(batch * _SIZE), "large")


def _cut_short(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    whole = b"".join(_good(rng, corpus).chunks)
    return Case("cut short", [whole[: rng.randrange(1, len(whole))]], leaves=True)


def _paths(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    path = rng.choice(
        (
            "/v2",
            "/v2/",
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models/default",
            "/v2/models/default/versions/1",
            "/v2/models/default/versions/2/ready",
            "/v2/models/default/ready?x=1",
            "/v2/models/default/versions/" + "9" * 300,
            "/v2/models/%00/infer",
            "/v2/models/default/config",
            "/v2/models/default/infer/",
            "/v2/models//infer",
            "/v2/models/" + "x" * 300 + "/infer",
            "/v2/repository/index",
            "/v2/systemsharedmemory/status",
            "/v2/models/..%2f..%2fv1/infer",
            "/v2/logging",
        )
    )
    method = rng.choice(("GET", "GET", "POST", "PUT", "DELETE"))
    headers = {"Host": "t", "Connection": "close", "Content-Length": "0"}
    return Case("paths", [head(path, headers, method)], leaves=method not in ("GET", "POST"))


MAKERS: list[tuple[Callable[[random.Random, dict[str, bytes]], Case], float]] = [
    (_fields, 40),
    (_good, 12),
    (_broken_text, 16),
    (_lengths, 12),
    (_headers, 6),
    (_large, 1),
    (_cut_short, 3),
    (_paths, 10),
]
