"""What goes on when an event loop, a log's reader or a supervisor does not."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

pytest.importorskip("pydantic_settings")
from gazeseg_serve.service import log_writer
from gazeseg_serve.service.log_writer import LogWriter

BUSY = "while True: pass"


def test_a_process_whose_loop_never_ends_ends_in_time() -> None:
    code = f"from gazeseg_serve.service.watchdog import Watchdog; Watchdog().end_within(0.1)\n{BUSY}"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 1


def test_before_its_time_it_goes_on() -> None:
    code = "from gazeseg_serve.service.watchdog import Watchdog; Watchdog().end_within(600); print('done')"
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=True, capture_output=True, text=True)
    assert done.stdout == "done\n"


@pytest.mark.skipif(sys.platform == "win32", reason="parents are POSIX's")
def test_a_child_of_a_killed_supervisor_gets_sigterm() -> None:
    child = f"from gazeseg_serve.service.watchdog import Watchdog; Watchdog(); print('ready', flush=True)\n{BUSY}"
    parent = f"import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', {child!r}]).pid, flush=True)\n{BUSY}"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        orphan = psutil.Process(int(supervisor.stdout.readline()))
        assert supervisor.stdout.readline() == "ready\n"
        supervisor.kill()
        psutil.wait_procs([orphan], timeout=60)
        assert not orphan.is_running()


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("test", logging.INFO, "", 0, text, None, None)


def test_a_pipe_that_nobody_reads_stops_nobody_and_what_was_lost_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "_LINES", 500)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading) as reader:
        writer = LogWriter(stream)
        for number in range(5000):  # over 64 KiB, what a pipe takes
            writer.emit(record(f"line {number} " + "x" * 100))
        assert writer.dropped > 0
        found: list[str] = []
        enough = threading.Event()

        def read() -> None:
            for line in reader:
                found.append(line)
                if line == "last\n":
                    enough.set()
                    return

        threading.Thread(target=read, daemon=True).start()
        assert writer.flushed(60)
        writer.emit(record("last"))
        assert enough.wait(60)
    numbers = [int(line.split()[1]) for line in found if line.startswith("line")]
    told = [int(line.split()[0]) for line in found if line.endswith("log lines were dropped\n")]
    assert numbers == sorted(set(numbers))
    assert sum(told) == writer.dropped
    assert len(numbers) + writer.dropped == 5000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_and_a_reader_that_has_gone_stop_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    full = os.open("/dev/full", os.O_WRONLY)
    for handle in (full, writing):
        with contextlib.suppress(OSError), os.fdopen(handle, "w") as stream:  # closing it tries once more
            writer = LogWriter(stream)
            writer.emit(record("lost"))
            assert writer.flushed(60)
            assert writer.dropped == 1
