"""Where malloc takes a large block from, once large blocks have been freed. In processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("bentoml")

_CODE = """
import ctypes, sys
from gazeseg_serve.service.memory import bound_heaps
if sys.argv[1] == "bound" and not bound_heaps():
    sys.exit("another malloc")
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
                "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]
libc.mallinfo2.restype = Info
libc.free(ctypes.c_void_p(libc.malloc(24 << 20)))
before = libc.mallinfo2().hblkhd
block = libc.malloc(12 << 20)
print(libc.mallinfo2().hblkhd - before)
"""


def own_pages(mode: str) -> int:
    """The bytes on pages of their own that a block of 12 MiB adds after one of 24 MiB was freed."""
    done = subprocess.run([sys.executable, "-c", _CODE, mode], capture_output=True, text=True, check=False)
    if "another malloc" in done.stderr or "mallinfo2" in done.stderr:
        pytest.skip("not glibc 2.33 or later")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_large_block_has_pages_of_its_own_whatever_was_freed_before() -> None:
    assert own_pages("as it is") == 0, "the reason for bound_heaps is gone"
    assert own_pages("bound") >= 12 << 20
