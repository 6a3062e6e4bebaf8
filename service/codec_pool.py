"""Processes for the files that are large, or of formats whose decoders can be made to work for minutes.

A thread cannot be stopped; a process can. Whoever stops waiting (the client has left, the time is over) has the process
killed that worked for him, and the next is forked in milliseconds from one that has loaded everything. Each piece of
work has a memory limit of its own, and all together one of theirs.
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.reduction import recv_handle
from typing import IO, Any

from gazeseg_serve import errors
from gazeseg_serve.errors import GazesegError, ImageTooLarge, MalformedImage

from .codec_process import serve
from .limits import draining
from .problems import busy, storage_full
from .turns import Turns

_PRELOAD = "gazeseg_serve.service.codec_preload"
_LEAST = 64 * 2**20  # bytes that any piece of work gets
_BACKLOG = 8  # new work may wait for so many times the whole memory, some ten seconds' work; more would wait in vain
_LOST = (EOFError, OSError)  # what the pipe raises when the process has ended


@dataclass(frozen=True)
class Done:
    """What a codec process answered: a JSON object, blobs, for a large answer the file that holds it, and in what time."""

    header: dict[str, Any]
    blobs: list[bytes]
    file: IO[bytes] | None = None
    seconds: float = 0.0


class _OutOfMemory(Exception):
    """The work needs more than it was given."""


class _Ended(Exception):
    """The process has ended over its work: its decoder crashed, or the system took it for its memory."""


class _Process:
    """One process and its pipe. `exchange` blocks; `kill` may be called meanwhile, from another thread."""

    _register = threading.Lock()  # multiprocessing keeps a list of all processes, which is not made for threads

    def __init__(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([_PRELOAD])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), name="codec", daemon=True)
        with self._register:
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def exchange(self, request: dict[str, Any], blobs: Sequence[bytes]) -> Done:
        """Raises one of _LOST where the process ends meanwhile."""
        self._pipe.send_bytes(json.dumps({**request, "blobs": len(blobs), "pid": os.getpid()}).encode())
        for blob in blobs:
            self._pipe.send_bytes(blob)
        header = json.loads(self._pipe.recv_bytes())
        if "file" in header:
            file = os.fdopen(recv_handle(self._pipe), "rb")
            file.seek(0)  # the place in it is shared with the one that wrote
            return Done(header, [], file)
        return Done(header, [self._pipe.recv_bytes() for _ in range(header["blobs"])])

    def kill(self) -> None:
        """Only while it lives: the number of one that has ended, whom another process waited for, may be a stranger's."""
        if not wait([self._process.sentinel], timeout=0):
            self._process.kill()

    def end(self) -> None:
        self.kill()
        with self._register:
            self._process.join()
            self._process.close()
        self._pipe.close()


@dataclass
class _Piece:
    """One piece of work: the process that does it, from when there is one, and whether nobody waits for it any more."""

    request: dict[str, Any]
    blobs: Sequence[bytes]
    process: _Process | None = None
    gone: bool = False


class CodecPool:
    """Runs the tasks of codec_process.py, `places` at once, within `memory` bytes in all. Belongs to one event loop."""

    def __init__(self, places: int, memory: int) -> None:
        self._turns, self._memory = Turns(places, memory), memory
        self._threads = ThreadPoolExecutor(places, thread_name_prefix="codec-pipe")
        self._idle: list[_Process] = []
        self._busy: set[_Process] = set()
        self._closed = False
        atexit.register(self.close)

    def start(self) -> None:
        """Begin to make the first process, beside whatever else is loaded: what it is forked from takes seconds."""

        def make() -> None:
            process = _Process()
            if self._closed:
                process.end()
            else:
                self._idle.append(process)

        self._threads.submit(make)

    def working(self) -> list[int]:
        """The process ids of those that work now."""
        return [process.pid for process in list(self._busy) if process.pid is not None]

    async def run(
        self,
        task: str,
        arguments: dict[str, Any],
        blobs: Sequence[bytes] = (),
        *,
        memory: int = 0,
        begun: bool = False,
        patient: bool = False,
    ) -> Done:
        """Run one task when its turn comes; cancelling it kills the process that runs it.

        memory: bytes it may take, by an estimate; where that was too low it gets all there is, once. begun: for a request
        that has been through the engine, so that it ends before others begin. patient: waits however many wait, and
        turns nobody away; for a batch, which makes a few wait at a time.
        Raises ImageError, or Problem 503 (too much waits) or 507 (no room for the answer).
        """
        memory = self._turns.clip(max(memory, _LEAST))
        if not begun and not patient and self._turns.waiting_memory() + memory > _BACKLOG * self._memory:
            raise busy("pixels-full", "the images that wait to be decoded are too many or too large; try again")
        request = {"task": task, "arguments": arguments}
        if memory < self._memory:
            try:
                return await self._once(request, blobs, memory, begun, patient)
            except (_OutOfMemory, _Ended, MalformedImage) as error:
                # Decoders tell a lack of memory in many ways; a small image that is malformed is just that.
                if isinstance(error, MalformedImage) and memory == _LEAST:
                    raise
        try:
            return await self._once(request, blobs, self._memory, begun, patient or memory < self._memory)
        except _OutOfMemory:
            raise ImageTooLarge(
                f"the image takes more than {self._memory} bytes to decode, or its answer to make, which is the "
                "limit; send a smaller image, or ask for another output"
            ) from None
        except _Ended:
            raise MalformedImage("the decoder ended over this file; it is corrupt, or takes too much memory") from None

    async def _once(self, request: dict[str, Any], blobs: Sequence[bytes], memory: int, begun: bool, patient: bool) -> Done:
        await self._turns.enter(memory, begun, patient)
        if self._closed:
            raise draining()
        piece = _Piece({**request, "memory": memory}, blobs)
        working = asyncio.get_running_loop().run_in_executor(self._threads, self._work, piece)
        working.add_done_callback(lambda done: self._after(done, piece))
        try:
            return _checked(await asyncio.shield(working))
        except asyncio.CancelledError:
            piece.gone = True
            if piece.process is not None:
                piece.process.kill()
            raise

    def _work(self, piece: _Piece) -> Done:
        process = piece.process = self._idle.pop() if self._idle else _Process()
        started = time.monotonic()
        self._busy.add(process)
        if piece.gone or self._closed:
            process.kill()
        try:
            done = process.exchange(piece.request, piece.blobs)
        except _LOST:
            raise _Ended from None
        return dataclasses.replace(done, seconds=time.monotonic() - started)

    def _after(self, working: asyncio.Future[Done], piece: _Piece) -> None:
        """On the event loop, when the process has answered or ended: only now is its memory free for others."""
        done = None if working.exception() else working.result()
        process, piece.process = piece.process, None  # who gives up from now on has nothing to kill
        if process is not None:
            self._busy.discard(process)
            if done is None or piece.gone or self._closed or done.header.get("worn"):
                process.end()
            else:
                self._idle.append(process)
        if done is not None and done.file is not None and piece.gone:
            done.file.close()
        self._turns.leave(piece.request["memory"])

    def close(self) -> None:
        """Kill all processes, whatever they do."""
        atexit.unregister(self.close)
        self._closed = True
        for process in list(self._busy):
            process.kill()
        while self._idle:
            self._idle.pop().end()
        self._threads.shutdown(wait=True)


def _checked(done: Done) -> Done:
    """Raises what the process could not do."""
    name, detail = done.header.get("error"), str(done.header.get("detail"))
    if name is None:
        return done
    if name == "OutOfMemory":
        raise _OutOfMemory
    if name == "StorageFull":
        raise storage_full()
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, GazesegError):
        raise kind(detail)
    raise RuntimeError(f"a codec process failed: {detail}")
