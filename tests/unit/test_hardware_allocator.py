"""Memory that was freed goes back to the system, also where what was taken after it still stands."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

_SCENE = r"""
import asyncio
import ctypes
import re
import sys
import threading

from chatglm_backend.hardware.allocator import keep_small, share_heaps

free = ctypes.CDLL(None)
free.malloc.restype, free.malloc.argtypes, free.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
SIZE, COUNT = 60_000, 1000


def resident():
    with open("/proc/self/status") as told:
        return int(re.search(r"VmRSS:\s+(\d+)", told.read())[1]) * 1024


def use(turns):
    def work():
        held = [free.malloc(SIZE) for _ in range(COUNT)]
        for one in held:
            ctypes.memset(one, 1, SIZE)
        last = free.malloc(SIZE)  # stays, at the heap's end
        for one in held:
            free.free(one)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def kept():
    before = resident()
    use(1)
    full = resident()
    task = asyncio.create_task(keep_small(0.01))
    for _ in range(500):
        await asyncio.sleep(0.01)
        if resident() - before < SIZE * COUNT // 4:
            break
    task.cancel()
    return full - before, resident() - before


share_heaps()
print(*asyncio.run(kept()))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_what_was_freed_is_given_back() -> None:
    """A thread that takes 60 MB, frees it, and keeps a little behind it leaves that little."""
    assert hasattr(ctypes.CDLL(None), "malloc_trim")
    done = subprocess.run([sys.executable, "-c", _SCENE], capture_output=True, text=True, check=True, timeout=60)
    full, left = map(int, done.stdout.split())
    assert full > 50e6
    assert left < full / 4
