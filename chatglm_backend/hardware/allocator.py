"""What the C library keeps of memory that was freed, where that is glibc: nothing is done with others.

By itself it makes up to eight heaps for each core, for as many threads, and gives back only what is free at a heap's
end. Sixteen visitors made a process of 600 MB hold 90 MB of such room, and more every minute (docs/reliability.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes

_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h
_HEAPS, _EVERY_S = 2, 10.0


def share_heaps() -> None:
    """Let all threads share two heaps. Call it before there are many: heaps that were made are not given up."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_ARENA_MAX, _HEAPS)


async def keep_small(every_s: float = _EVERY_S) -> None:
    """Give free memory back to the system again and again, on a thread, until cancelled."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    while True:
        await asyncio.sleep(every_s)
        await asyncio.to_thread(trim, 0)
