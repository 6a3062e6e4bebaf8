"""Broken requests for the service: mutated images and abused HTTP, each made from a random generator alone."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
from collections import Counter
from collections.abc import Callable

import cv2
import numpy as np
from fuzz_hostile import MAKERS as HOSTILE
from fuzz_requests import Case, form, head, plain
from fuzz_tensors import MAKERS as TENSORS
from PIL import Image


def seed_corpus() -> dict[str, bytes]:
    """Small valid files of every format and of the layouts with code of their own."""
    rng = np.random.default_rng(5)
    rgb = rng.integers(0, 256, (24, 33, 3), dtype=np.uint8)
    grey16 = rng.integers(0, 65536, (20, 21), dtype=np.uint16)

    def pillow(picture: Image.Image, kind: str, **options: object) -> bytes:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        return file.getvalue()

    colour = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[0x0112] = 5
    corpus = {
        "png": pillow(colour, "PNG"),
        "png16": cv2.imencode(".png", grey16)[1].tobytes(),
        "png-palette": pillow(colour.quantize(16), "PNG", transparency=3),
        "png-alpha": pillow(colour.convert("RGBA"), "PNG"),
        "png-1bit": pillow(colour.convert("1"), "PNG"),
        "jpeg": pillow(colour, "JPEG", exif=exif),
        "jpeg-grey": pillow(colour.convert("L"), "JPEG"),
        "jpeg-cmyk": pillow(colour.convert("CMYK"), "JPEG"),
        "jpeg-progressive": pillow(colour, "JPEG", progressive=True, icc_profile=bytes(200)),
        "tiff": pillow(colour, "TIFF"),
        "tiff-lzw": pillow(colour, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": pillow(colour, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": pillow(colour, "TIFF", compression="jpeg"),
        "tiff16": cv2.imencode(".tif", grey16)[1].tobytes(),
        "gif": pillow(colour, "GIF"),
        "bmp": pillow(colour, "BMP"),
    }
    from dicom_kinds import every_kind
    from dicoms import dicom_file

    corpus.update({f"dicom {kind}": data for kind, data in every_kind().items()})
    corpus["dicom"] = dicom_file(1, grey16)
    corpus["dicom-rescaled"] = dicom_file(
        2,
        grey16,
        RescaleSlope="2",
        RescaleIntercept="-1024",
        WindowCenter="40",
        WindowWidth="400",
        PhotometricInterpretation="MONOCHROME1",
    )
    corpus["dicom-frames"] = dicom_file(3, grey16, NumberOfFrames=2, PixelData=np.stack([grey16] * 2).tobytes())
    return corpus


_PATIENCE = 0.4  # seconds
# Numbers at the edge of what a header field can hold.
_EDGES = [bytes(4), b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"\xff\xff", b"\x00\x01", b"\x00"]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a few places of `data`: flip, overwrite, cut, repeat, insert."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        # Headers stand at the beginning, and most of what can go wrong is in them.
        place = int(len(out) * rng.random() ** rng.choice((1, 3))) if out else 0
        action = rng.randrange(6)
        if action == 0 and out:
            out[place] ^= 1 << rng.randrange(8)
        elif action == 1:
            edge = rng.choice(_EDGES)
            out[place : place + len(edge)] = edge
        elif action == 2:
            del out[place : place + rng.choice((1, 2, 16, len(out)))]
        elif action == 3:
            part = out[place : place + rng.randrange(1, 64)]
            out[place:place] = part * rng.choice((1, 2, 100))
        elif action == 4:
            out[place:place] = rng.randbytes(rng.randrange(1, 32))
        elif out:
            out[place] = rng.randrange(256)
    return bytes(out)


def mutate_image(data: bytes, rng: random.Random) -> bytes:
    """Change an image file; of DICOM mostly what follows the preamble, or the pixel data alone."""
    if data[128:132] != b"DICM" or rng.random() < 0.1:
        return mutate(data, rng)
    place = data.find(b"\xe0\x7f\x10\x00") + 12 if rng.random() < 0.4 else 132
    return data[:place] + mutate(data[place:], rng)


def _query(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return ""
    if rng.random() < 0.85:
        output = rng.choice(("png", "json", "probability", "overlay", "npz", "dicom-seg"))
        return f"?output={output}&threshold={rng.choice(('0', '0.5', '1', '0.999999'))}"
    return "?" + "&".join(
        rng.choice(
            (
                "output=",
                "output=png%00",
                "output=json&output=png",
                "threshold=nan",
                "threshold=-inf",
                "threshold=1e999",
                "threshold=0x1",
                "disagreement=true",
                "disagreement=2",
                "threshold=" + "9" * 400,
                "%ff=%fe",
                "a" * 3000,
                "threshold=%F0%9F%91%81",
                "output[]=png",
                "x=1;y=2",
                "output=DICOM-SEG",
                "threshold=.5e0",
            )
        )
        for _ in range(3)
    )


def _mutated_image(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    name = rng.choice(sorted(corpus))
    data = mutate_image(corpus[name], rng)
    path = rng.choice(("/v1/segment", "/v1/segment", "/v1/models/default/segment")) + _query(rng)
    if rng.random() < 0.3:
        return Case(f"form {name}", plain(path, form([("image", "x", data)]), "multipart/form-data; boundary=edge"))
    kind = rng.choice(("application/octet-stream", "image/png", "image/jpeg", "image/tiff", "application/dicom"))
    return Case(f"raw {name}", plain(path, data, kind))


def _mutated_form(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    parts = [
        (
            rng.choice(("image", "image", "imagé", "", 'a"b', "../x")),
            rng.choice(("a.png", "../../etc/passwd", "", "\x00", "x" * 2000, "ü.dcm")),
            rng.choice(list(corpus.values())),
        )
        for _ in range(rng.choice((0, 1, 1, 2, 25)))
    ]
    body = form(parts)
    body = mutate(body, rng) if rng.random() < 0.7 else body
    boundary = rng.choice(("edge", "edge", "edge", "edg", "", '"edge"', "x" * 300, "\xff"))
    path = rng.choice(("/v1/segment", "/v1/segment/batch")) + _query(rng)
    return Case("broken form", plain(path, body, f"multipart/form-data; boundary={boundary}"))


def _batch(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    names = rng.choices(sorted(corpus), k=rng.randrange(1, 6))
    body = form([("image", name, mutate(corpus[name], rng) if rng.random() < 0.5 else corpus[name]) for name in names])
    return Case("batch", plain("/v1/segment/batch" + _query(rng), body, "multipart/form-data; boundary=edge"))


def _strange_headers(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    strange = {
        "Accept": rng.choice(("", ";;q=,", "image/png;q=x", "text/html", ",".join(["*/*"] * 500), "\xff/\xfe")),
        "Accept-Encoding": rng.choice(("gzip;q=-1", "br, , gzip", "\x01", "*;q=0")),
        "If-None-Match": rng.choice(("*", '"', "W/", 'W/"' + "a" * 3000)),
        "X-Request-Id": rng.choice(("", "x" * 9000, "\x7f", "a\tb", "{}")),
        "Authorization": rng.choice(("Bearer", "Basic ====", "Bearer \xff\xff", " ")),
        "Content-Type": rng.choice(
            (
                "",
                "multipart/form-data",
                "application/vnd.bentoml+pickle",
                "image/*",
                "multipart/form-data; boundary=" + "b" * 5000,
                "application/json",
                "\xff",
                "x" * 500,
            )
        ),
        "Content-Encoding": rng.choice(("gzip", "deflate", "identity, gzip", "x")),
        "Content-Length": rng.choice(("-1", "abc", "99999999999999999999", "0", "1, 2", "+5")),
        "Transfer-Encoding": rng.choice(("chunked", "gzip, chunked", "identity", "x")),
        "Expect": rng.choice(("100-continue", "200-ok")),
        "Origin": rng.choice(("null", "http://\xff", "x")),
        "Traceparent": rng.choice(("00-" + "0" * 32 + "-" + "0" * 16 + "-01", "junk", "00-" + "f" * 32)),
        "Forwarded": 'for="[::1"',
        "Range": "bytes=0-,5-1",
        "Upgrade": rng.choice(("websocket", "h2c")),
    }
    headers = {
        "Host": rng.choice(("test", "", "a b", "[::1")),
        "Connection": "close",
        "Content-Type": "image/png",
        "Content-Length": str(len(corpus["png"])),
    }
    headers.update({name: strange[name] for name in rng.sample(sorted(strange), rng.randrange(1, 4))})
    # The server may wait for a body that a length or a coding promises: this client is gone before.
    return Case("strange headers", [head("/v1/segment" + _query(rng), headers), corpus["png"]], leaves=True)


def _chunked(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    data = rng.choice(list(corpus.values()))
    chunks = [
        head(
            "/v1/segment" + _query(rng),
            {
                "Host": "t",
                "Content-Type": rng.choice(("image/png", "multipart/form-data; boundary=edge")),
                "Transfer-Encoding": "chunked",
                "Connection": "close",
            },
        )
    ]
    while data:
        size = rng.choice((1, 7, 100, 5000))
        part, data = data[:size], data[size:]
        claimed = len(part) if rng.random() < 0.97 else rng.choice((0, 2**40, len(part) + 1))
        chunks.append(f"{claimed:x}{rng.choice(('', '', ';ext=1'))}\r\n".encode() + part + b"\r\n")
    end = rng.choice((b"0\r\n\r\n", b"0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n", b"zz\r\n", b""))
    return Case("chunked", [*chunks, end], leaves=not end.endswith(b"\r\n\r\n"))


def _cut_short(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    head, body = plain("/v1/segment", corpus["jpeg"], "image/jpeg")
    whole = head + body
    return Case("cut short", [whole[: rng.randrange(1, len(whole))]], leaves=True)


def _junk(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    first = rng.choice(
        (
            rng.randbytes(200),
            b"GET / HTTP/9.9\r\n\r\n",
            b"\x16\x03\x01\x02\x00" + rng.randbytes(100),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"POST /v1/segment HTTP/1.1\r\n" + b"A: b\r\n" * 500 + b"\r\n",
            b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
        )
    )
    return Case("not HTTP", [first], leaves=True)


def _other_paths(rng: random.Random, corpus: dict[str, bytes]) -> Case:
    path = rng.choice(
        (
            "/",
            "/v1/model",
            "/v1/models",
            "/v1/models/default",
            "/metrics",
            "/docs",
            "/openapi.json",
            "/livez",
            "/readyz",
            "/page/../http.py",
            "/page/%2e%2e/http.py",
            "/docs/assets/..%2f..%2fapp.py",
            "/v1/models/" + "x" * 300,
            "/v1/models/%00",
            "/v1/models/../../segment",
            "//",
            "/%",
            "/\xff",
            "/schema.json",
            "/page/app.js%00",
            "/v1/segment/",
            "/v1/models/a%2Fb/segment",
        )
    )
    method = rng.choice(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "POST", "get", "X" * 50))
    return Case(
        "other paths",
        [head(path, {"Host": "t", "Connection": "close", "Content-Length": "0"}, method)],
        leaves=method not in ("GET", "POST"),
    )


_MAKERS: list[tuple[Callable[[random.Random, dict[str, bytes]], Case], float]] = [
    (_mutated_image, 50),
    (_mutated_form, 12),
    (_batch, 6),
    (_strange_headers, 12),
    (_chunked, 8),
    (_cut_short, 3),
    (_junk, 3),
    (_other_paths, 6),
    *HOSTILE,
]


def make_case(rng: random.Random, corpus: dict[str, bytes], door: str = "v1") -> Case:
    """One request, the same for the same state of `rng`: for `/v1/`, or for the Open Inference Protocol at `/v2/`."""
    makers, weights = zip(*(_MAKERS if door == "v1" else TENSORS), strict=True)
    return rng.choices(makers, weights)[0](rng, corpus)


def attack_document(url: str, examples: int) -> Counter[int]:
    """Requests made by schemathesis from the OpenAPI document, `examples` an operation; the statuses they got.

    Fails where one gets a 5xx, or a refusal that is no problem document.
    """
    import schemathesis
    from hypothesis import HealthCheck, given, settings

    statuses: Counter[int] = Counter()
    for operation in schemathesis.openapi.from_url(url + "/openapi.json").get_all_operations():

        @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.ok().as_strategy())
        def attack(case: schemathesis.Case) -> None:
            response = case.call(base_url=url)
            statuses[response.status_code] += 1
            assert response.status_code < 500, response.text
            if response.status_code >= 400:
                assert response.headers["content-type"] == ["application/problem+json"]

        attack()
    return statuses


async def send(host: str, port: int, case: Case) -> int | str:
    """Send the case over a connection of its own. Returns the status, or `closed` where none came.

    A case that leaves stops sending, and gives the server a moment to say something.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        try:
            for chunk in case.chunks:
                writer.write(chunk)
                await writer.drain()
            # Without an end-of-file: a server takes that for a client that is gone, and need not answer.
            async with asyncio.timeout(_PATIENCE if case.leaves else None):
                line = await reader.readline()
                if line:
                    rest = await reader.read()  # to the end: a server that stops in the middle of an answer hangs here
                    if line.startswith(b"HTTP/1.1 100 "):  # the answer comes after it
                        line = (line + rest).partition(b"\r\n\r\n")[2]
        except (OSError, ValueError):
            return "closed"
        except TimeoutError:
            if case.leaves:
                return "left"
            raise
        words = line.split()
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else "closed"
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
