"""A service in a pod's memory, watched: its peak, and how long /livez takes while others do their worst.

A memory cgroup of its own where this may make one (version 1 or 2), else the sum of its processes' resident memory,
which counts shared pages once a process; `peak_measured_by` says which.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

CGROUPS = Path("/sys/fs/cgroup")
POD = 2 * 2**30  # bytes, as deploy/kubernetes asks for


class Pod:
    """A memory cgroup of `limit` bytes, where one can be made."""

    def __init__(self, limit: int = POD, name: str = "gazeseg-bench") -> None:
        self.limit = limit
        first = CGROUPS / "memory"
        self._folder: Path | None = (first if first.is_dir() else CGROUPS) / f"{name}-{os.getpid()}"
        self._old = first.is_dir()
        try:
            self._folder.mkdir()
            (self._folder / ("memory.limit_in_bytes" if self._old else "memory.max")).write_text(str(limit))
        except OSError:
            self._folder = None

    @property
    def measured_by(self) -> str:
        return "" if self._folder is None else f"cgroup of {self.limit >> 20} MiB"

    def inside(self) -> None:
        """To be called in the process that goes in, before it starts anything."""
        if self._folder is not None:
            (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak_mib(self) -> int:
        """The most that its processes held, with what the system kept of their files."""
        if self._folder is None:
            return 0
        return int((self._folder / ("memory.max_usage_in_bytes" if self._old else "memory.peak")).read_text()) >> 20

    def kills(self) -> int:
        """How often the system ended a process for want of memory."""
        if self._folder is None:
            return 0
        lines = (self._folder / ("memory.oom_control" if self._old else "memory.events")).read_text().splitlines()
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)

    def close(self) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):
                self._folder.rmdir()


@contextlib.contextmanager
def watched(port: int, pid: int, pod: Pod) -> Iterator[dict[str, Any]]:
    """Ask for /livez ten times a second while the block runs; afterwards the dict says what was seen.

    From a process of its own, whose clock does not stand still while another makes requests.
    """
    seen: dict[str, Any] = {}
    command = [sys.executable, __file__, str(port), str(pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        try:
            yield seen
        finally:
            out, _ = watcher.communicate("", timeout=60)
    seen.update(json.loads(out))
    if pod.measured_by:
        seen.update(peak_mib=pod.peak_mib(), peak_measured_by=pod.measured_by, killed_for_memory=pod.kills())


def main() -> None:
    """Watch until standard input ends."""
    port, process = int(sys.argv[1]), psutil.Process(int(sys.argv[2]))
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    worst, looks, lost, resident = 0.0, 0, 0, 0
    while not over.wait(0.1):
        started = time.perf_counter()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as plug:
                plug.sendall(b"GET /livez HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
                lost += not plug.recv(1024).startswith(b"HTTP/1.1 200")
        except OSError:
            lost += not over.is_set()
        worst, looks = max(worst, time.perf_counter() - started), looks + 1
        if looks % 10 == 0:
            resident = max(resident, _resident(process))
    print(json.dumps({"livez_worst_seconds": round(worst, 3), "livez_looks": looks, "livez_lost": lost,
                      "peak_mib": resident >> 20, "peak_measured_by": "resident memory of all its processes"}))  # fmt: skip


def _resident(process: psutil.Process) -> int:
    found = 0
    with contextlib.suppress(psutil.Error):
        for each in [process, *process.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                found += each.memory_info().rss
    return found


if __name__ == "__main__":
    main()
