"""Gives the memory of large images back to the system, on Linux with glibc."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MMAP_FROM = 4 * 2**20
_TRIM_FROM = 8 * 2**20


def bound_heaps() -> bool:
    """Blocks from 4 MiB on get pages of their own, which go back when they are freed. False where malloc is another.

    glibc raises that limit to the largest block that was ever freed, up to 32 MiB: from the first large image on such
    blocks come from the threads' heaps, where they are not given back, and each large image decoded beside another adds
    one. Smaller blocks, those of images up to a megapixel, stay in the heaps, for fresh pages cost time; naming the first
    limit would set the second, from which on a heap is cut, to 128 KiB, and every image would come on fresh pages.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(
        mallopt(name, value) == 1 for name, value in ((_M_MMAP_THRESHOLD, _MMAP_FROM), (_M_TRIM_THRESHOLD, _TRIM_FROM))
    )
