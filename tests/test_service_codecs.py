"""Processes that decode and encode: killed when nobody waits, bounded in memory, and never the end of the service."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("pydantic_settings")
from gated_service import until
from serving import encoded, images

from gazeseg_serve.contract import InputSpec
from gazeseg_serve.errors import ImageTooLarge, MalformedImage
from gazeseg_serve.pixels import Limits
from gazeseg_serve.service import codec_pool
from gazeseg_serve.service.codec_pool import CodecPool, Done, _Process
from gazeseg_serve.service.codec_tasks import Purpose, prepare
from gazeseg_serve.service.problems import Problem

MIB = 2**20
SPEC = InputSpec(size=32)
ARGUMENTS = {
    "spec": dataclasses.asdict(SPEC),
    "limits": dataclasses.asdict(Limits()),
    "purpose": dataclasses.asdict(Purpose()),
}


def blank_png(side: int) -> bytes:
    """A PNG of `side` squared black RGB pixels, of a few KiB: work that takes as long as the test wants."""
    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(bytes(3 * side + 1)) for _ in range(side)) + rows.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


LONG = blank_png(6000)


def with_pool(scenario: Callable[[CodecPool], Awaitable[Any]], memory: int = 768 * MIB, places: int = 1) -> Any:
    async def run() -> Any:
        pool = CodecPool(places, memory)
        try:
            return await scenario(pool)
        finally:
            pool.close()
            await asyncio.sleep(0)

    return asyncio.run(run())


def decode(pool: CodecPool, data: bytes, **options: Any) -> Awaitable[Done]:
    return pool.run("prepare", ARGUMENTS, [data], **options)


async def processes(pool: CodecPool) -> list[psutil.Process]:
    """Those that work now, from when there is one."""
    async with asyncio.timeout(60):
        while not pool.working():
            await asyncio.sleep(0.001)
    return [psutil.Process(pid) for pid in pool.working()]


async def gone(process: psutil.Process) -> None:
    async with asyncio.timeout(60):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.005)


def test_a_process_answers_what_a_thread_does() -> None:
    async def scenario(pool: CodecPool) -> None:
        for picture in images(3):
            data = encoded(pixels=picture)
            done = await decode(pool, data)
            expected, size = prepare(SPEC, data, Limits(), Purpose())
            np.testing.assert_array_equal(np.frombuffer(done.blobs[0], np.uint8).reshape(32, 32, 3), expected)
            assert tuple(done.header["size"]) == size

    with_pool(scenario)


def test_cancelling_kills_the_process_and_the_next_is_served() -> None:
    async def scenario(pool: CodecPool) -> None:
        work = asyncio.ensure_future(decode(pool, LONG))
        (process,) = await processes(pool)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        await gone(process)
        assert (await decode(pool, encoded())).header["size"] == [48, 80]

    with_pool(scenario)


def test_who_leaves_before_his_turn_costs_nothing() -> None:
    async def scenario(pool: CodecPool) -> None:
        first = asyncio.ensure_future(decode(pool, LONG))
        (process,) = await processes(pool)
        second = asyncio.ensure_future(decode(pool, encoded()))
        await asyncio.sleep(0)
        second.cancel()
        assert (await first).header["size"] == [6000, 6000]
        assert process.is_running()

    with_pool(scenario)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_what_needs_more_memory_than_there_is_is_refused_and_the_process_lives_on() -> None:
    async def scenario(pool: CodecPool) -> None:
        with pytest.raises(ImageTooLarge, match="bytes to decode"):
            await decode(pool, LONG)  # its estimate says nothing
        assert (await decode(pool, encoded())).header["size"] == [48, 80]

    with_pool(scenario, memory=64 * MIB)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_an_estimate_that_was_too_low_gets_all_there_is() -> None:
    async def scenario(pool: CodecPool) -> None:
        assert (await decode(pool, LONG, memory=1)).header["size"] == [6000, 6000]

    with_pool(scenario)


def test_a_decoder_that_crashes_is_a_malformed_image() -> None:
    async def scenario(pool: CodecPool) -> None:
        work = asyncio.ensure_future(decode(pool, LONG, memory=768 * MIB))
        (process,) = await processes(pool)
        process.send_signal(signal.SIGSEGV)
        with pytest.raises(MalformedImage, match="decoder ended"):
            await work
        assert (await decode(pool, encoded())).header["size"] == [48, 80]

    with_pool(scenario)


def test_sigterm_and_sigint_do_not_end_it() -> None:
    async def scenario(pool: CodecPool) -> None:
        work = asyncio.ensure_future(decode(pool, LONG))
        (process,) = await processes(pool)
        process.send_signal(signal.SIGTERM)  # a supervisor sends it to the children of its children, too
        process.send_signal(signal.SIGINT)
        assert (await work).header["size"] == [6000, 6000]

    with_pool(scenario)


def test_new_work_is_refused_once_too_much_waits_and_a_batch_waits_on() -> None:
    async def scenario(pool: CodecPool) -> None:
        first = asyncio.ensure_future(decode(pool, LONG, memory=768 * MIB))
        await processes(pool)
        waiting = [asyncio.ensure_future(decode(pool, encoded(), memory=768 * MIB)) for _ in range(8)]
        await asyncio.sleep(0)
        with pytest.raises(Problem, match="too many or too large") as refused:
            await decode(pool, encoded())
        assert (refused.value.status, refused.value.code) == (503, "pixels-full")
        patient = asyncio.ensure_future(decode(pool, encoded(), patient=True))
        begun = asyncio.ensure_future(decode(pool, encoded(), begun=True))
        done, _ = await asyncio.wait([begun, *waiting], return_when=asyncio.FIRST_COMPLETED)
        assert begun in done
        await asyncio.gather(first, patient, *waiting)

    with_pool(scenario)


def test_a_bug_is_told_by_its_place_and_without_words_of_the_file() -> None:
    async def scenario(pool: CodecPool) -> None:
        with pytest.raises(RuntimeError, match=r"KeyError at codec_process.py:\d+") as told:
            await pool.run("prepare", {"limits": {"name": "Jane^Doe"}}, [b"Jane^Doe"])
        assert "Jane" not in str(told.value)

    with_pool(scenario)


def test_a_batch_that_waits_turns_nobody_away() -> None:
    async def scenario(pool: CodecPool) -> None:
        first = asyncio.ensure_future(decode(pool, LONG, memory=768 * MIB))
        await processes(pool)
        batch = [asyncio.ensure_future(decode(pool, encoded(), memory=768 * MIB, patient=True)) for _ in range(8)]
        await asyncio.sleep(0)
        one = await decode(pool, encoded())
        assert one.header["size"] == [48, 80]
        await asyncio.gather(first, *batch)

    with_pool(scenario)


def test_a_second_attempt_turns_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_pool, "_BACKLOG", 1)

    async def scenario(pool: CodecPool) -> None:
        large = [asyncio.ensure_future(decode(pool, LONG, memory=1)) for _ in range(2)]  # each then wants the whole
        await until(lambda: any(waiter.patient for waiter in pool._turns._waiting))
        assert (await decode(pool, encoded())).header["size"] == [48, 80]
        await asyncio.gather(*large)

    with_pool(scenario)


def test_the_number_of_a_process_that_has_ended_gets_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    process = _Process()
    psutil.Process(process.pid).kill()
    assert wait([process._process.sentinel], 60)
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *signal: sent.append(signal))
    process.end()
    assert sent == [], "the number may be another's by now"


def test_closing_kills_what_runs() -> None:
    async def scenario() -> None:
        pool = CodecPool(1, 768 * MIB)
        work = asyncio.ensure_future(decode(pool, LONG))
        (process,) = await processes(pool)
        pool.close()
        with pytest.raises(Problem, match="shutting down"):
            await work
        await gone(process)

    asyncio.run(scenario())


def test_it_ends_with_the_process_that_uses_it() -> None:
    """Killed, so that nothing can be tidied up."""
    code = f"""
import asyncio, dataclasses, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_service_codecs as here
async def main():
    pool = here.CodecPool(1, 768 * here.MIB)
    for _ in range(1000):
        work = asyncio.ensure_future(here.decode(pool, here.LONG))
        (process,) = await here.processes(pool)
        print(process.pid, flush=True)
        await work
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        codec = psutil.Process(int(user.stdout.readline()))
        user.kill()
        user.wait()
        end = time.monotonic() + 30
        while codec.is_running() and codec.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < end, "it lives on"
            time.sleep(0.01)
