"""How many CPUs this process may use: what sizes every pool of threads, in the engines, the service and the commands.

`os.cpu_count()` counts the machine's. A container that may use two of 64 would start 64 threads, which take turns on
two and are then stopped together until the next period. Quotas: Linux' sched-bwc.rst (cgroup v1) and cgroup-v2.rst.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc/self")


def available() -> int:
    """CPUs in the process's affinity, or in its cgroup's quota, rounded up, where that is less; at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = quota()
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


def quota(proc: Path = _PROC) -> float | None:
    """CPUs that the cgroups around the process allow: the least of its own group's quota and those above; None without any.

    proc: the folder of the process, with the files `cgroup` and `mountinfo` of proc(5).
    """
    limits = [limit for folder in _groups(proc) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def _groups(proc: Path) -> Iterator[Path]:
    """The folders of the process's groups that may hold a quota, from its own up to where the hierarchy is mounted."""
    try:
        memberships = (proc / "cgroup").read_text().splitlines()
        mounts = [line.split(" ") for line in (proc / "mountinfo").read_text().splitlines()]
    except OSError:  # not Linux, or a sandbox that shows no /proc
        return
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        for fields in mounts:
            if _belongs(controllers, fields[fields.index("-") + 1], fields[-1].split(",")):
                yield from _upwards(Path(fields[4]), fields[3], path)


def _belongs(controllers: str, kind: str, options: list[str]) -> bool:
    """Whether a mount of that kind is the hierarchy with these controllers, and one of CPUs; version 2 names none."""
    return kind == "cgroup2" if not controllers else kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options


def _upwards(mounted: Path, root: str, path: str) -> Iterator[Path]:
    """root: the group that is mounted at `mounted`. In a container `path` may lie outside it: the mount is all there is."""
    inside = Path(path).relative_to(root).parts if Path(path).is_relative_to(root) else ()
    for depth in range(len(inside), -1, -1):
        yield mounted.joinpath(*inside[:depth])


def _limit(folder: Path) -> float | None:
    """The group's quota by its period: `cpu.max` ("200000 100000", or "max 100000"), or version 1's two files."""
    try:
        text = (folder / "cpu.max").read_text()
    except OSError:
        try:
            text = f"{(folder / 'cpu.cfs_quota_us').read_text()} {(folder / 'cpu.cfs_period_us').read_text()}"
        except OSError:
            return None
    quota, period = text.split()
    return None if quota in ("max", "-1") else int(quota) / int(period)


def multiplies_bytes(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether every CPU has instructions for sums of products of bytes (x86's VNNI, ARM's dot product); False if unknown.

    Without them int8 networks gain little, and on x86 sums of two products may overflow 16 bits (ONNX Runtime's page on
    quantisation, "when to use S8S8").
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not Linux
        return False
    flags = [set(line.partition(":")[2].split()) for line in lines if line.partition("\t")[0] in ("flags", "Features")]
    return bool(flags) and all(found & {"avx512_vnni", "avx_vnni", "asimddp"} for found in flags)
