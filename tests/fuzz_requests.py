"""HTTP requests as they go over the wire, for the fuzzers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    """One request as it goes over the wire: `chunks` are sent one after the other, then the client waits, or leaves."""

    kind: str
    chunks: list[bytes] = field(repr=False)
    leaves: bool = False


def head(path: str, headers: dict[str, str], method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def plain(path: str, body: bytes, kind: str, **more: str) -> list[bytes]:
    headers = {"Host": "test", "Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close", **more}
    return [head(path, headers), body]


def form(parts: list[tuple[str, str, bytes]], boundary: str = "edge") -> bytes:
    out = b""
    for name, filename, content in parts:
        out += (
            (
                f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n"
            ).encode("latin-1", "replace")
            + content
            + b"\r\n"
        )
    return out + f"--{boundary}--\r\n".encode()
