"""The answers of a batch as they come, one after the other: a zip, or JSON lines. Never more than one is held."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from .answering import Reply
from .problems import Problem

_CHUNK = 256 * 1024


@dataclass(frozen=True)
class Item:
    """One image of the batch: its answer, or the problem with it."""

    name: str
    reply: Reply | None
    problem: Problem | None


async def json_lines(items: AsyncIterator[Item]) -> AsyncIterator[bytes]:
    """A line an image, in order: its name, and its answer or what was wrong."""
    async for item in items:
        yield b'{"name": ' + json.dumps(item.name).encode() + b", "
        if item.reply is None:
            yield json.dumps({"error": _error(item.problem)}).encode()[1:]
        else:
            first = True
            async for chunk in content(item.reply):
                yield chunk[1:] if first else chunk  # without the brace that has been opened
                first = False
        yield b"\n"


async def zipped(items: AsyncIterator[Item], entries: Mapping[str, str], about: Mapping[str, Any]) -> AsyncIterator[bytes]:
    """A file an image, called as `entries` says for its name; and index.json, which comes last: what became of each, after
    what `about` says of all.
    """
    index = []
    sent = _Sent()
    packed = zipfile.ZipFile(sent, "w", zipfile.ZIP_STORED)  # type: ignore[call-overload]
    async for item in items:
        if item.reply is not None:
            entry = zipfile.ZipInfo(entries[item.name])
            entry.header_offset, entry.external_attr = sent.tell(), 0o644 << 16
            entry.file_size = entry.compress_size = item.reply.size
            entry.CRC = await run_in_threadpool(_checksum, item.reply)
            # Size and sum stand before the content, which programs need that read an archive as it comes.
            yield sent.past(entry.FileHeader(zip64=False))
            async for chunk in content(item.reply):
                yield sent.past(chunk)
            packed.filelist.append(entry)
            packed.start_dir = sent.tell()
        file = None if item.reply is None else entries[item.name]
        index.append({"name": item.name, "file": file, "error": _error(item.problem)})
    packed.writestr("index.json", json.dumps({**about, "images": index}, indent=2))
    packed.close()
    yield sent.take()


def _checksum(reply: Reply) -> int:
    """CRC-32 of the content; its file is read once for it, and left at its beginning."""
    if reply.file is None:
        return zlib.crc32(reply.content)
    found = 0
    while chunk := reply.file.read(_CHUNK):
        found = zlib.crc32(chunk, found)
    reply.file.seek(0)
    return found


async def content(reply: Reply) -> AsyncIterator[bytes]:
    """The content of an answer in chunks; closes its file."""
    if reply.file is None:
        yield reply.content
        return
    with reply.file as file:
        while chunk := await run_in_threadpool(file.read, _CHUNK):
            yield chunk


class _Sent:
    """What a ZipFile takes for its file, and knows to be as long as all that has been sent: it holds what it writes itself
    (the index and the directory, at the end), and lets the rest go `past`.
    """

    def __init__(self) -> None:
        self._start, self._end = 0, io.BytesIO()

    def past(self, data: bytes) -> bytes:
        self._start += len(data)
        return data

    def write(self, data: bytes) -> int:
        return self._end.write(data)

    def tell(self) -> int:
        return self._start + self._end.tell()

    def seek(self, place: int) -> None:
        self._end.seek(place - self._start)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        return self._end.getvalue()


def _error(problem: Problem | None) -> dict[str, Any] | None:
    return None if problem is None else {"status": problem.status, "code": problem.code, "detail": problem.detail}
