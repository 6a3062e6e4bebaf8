"""The answers of a batch as they come, one after the other: a zip, or JSON lines. Never more than one is held."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from .answering import Reply
from .problems import Problem

_CHUNK = 256 * 1024
_IN_MEMORY = 4 * 2**20


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
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        window = _Window(file)
        packed = zipfile.ZipFile(window, "w", zipfile.ZIP_STORED)  # type: ignore[call-overload]
        async for item in items:
            entry = None
            if item.reply is not None:
                entry = entries[item.name]
                with packed.open(zipfile.ZipInfo(entry), "w", force_zip64=False) as place:
                    async for chunk in content(item.reply):
                        await run_in_threadpool(place.write, chunk)
                for chunk in window.take():
                    yield chunk
            index.append({"name": item.name, "file": entry, "error": _error(item.problem)})
        packed.writestr("index.json", json.dumps({**about, "images": index}, indent=2))
        packed.close()
        for chunk in window.take():
            yield chunk


async def content(reply: Reply) -> AsyncIterator[bytes]:
    """The content of an answer in chunks; closes its file."""
    if reply.file is None:
        yield reply.content
        return
    with reply.file as file:
        while chunk := await run_in_threadpool(file.read, _CHUNK):
            yield chunk


class _Window:
    """What a ZipFile writes, from the last `take` on: it may go back to the head of its entry, and no further.

    So the entries have their sizes in their heads, which programs need that read an archive as it comes.
    """

    def __init__(self, file: Any) -> None:
        self._file, self._start = file, 0

    def write(self, data: bytes) -> int:
        return int(self._file.write(data))

    def tell(self) -> int:
        return self._start + int(self._file.tell())

    def seek(self, place: int) -> None:
        self._file.seek(place - self._start)

    def flush(self) -> None:
        self._file.flush()

    def take(self) -> Iterator[bytes]:
        end = self._file.tell()
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            yield chunk
        self._start += end
        self._file.seek(0)
        self._file.truncate()


def _error(problem: Problem | None) -> dict[str, Any] | None:
    return None if problem is None else {"status": problem.status, "code": problem.code, "detail": problem.detail}
