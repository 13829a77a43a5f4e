"""One writer per low-bit checkpoint, across processes. Knows no formats."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from chatglm_backend.checkpoint.progress import check_cancel
from chatglm_backend.core import CancelToken, monotonic_clock
from chatglm_backend.errors import CacheLocked

LOCK = ".lock"
_POLL_S = 0.2


@contextlib.contextmanager
def writer_lock(
    folder: Path,
    *,
    wait_s: float | None = None,
    cancel: CancelToken | None = None,
    name: str = LOCK,
) -> Iterator[None]:
    """Hold the folder's lock; the folder is made if need be.

    ``wait_s`` bounds the wait in seconds (``None`` waits until the other process ends; 0 does not wait).
    Raises CacheLocked, or LoadCancelled while waiting.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / name)
    started = monotonic_clock()
    while True:
        check_cancel(cancel, folder.name)
        try:
            lock.acquire(timeout=0 if wait_s == 0 else _POLL_S)
            break
        except filelock.Timeout:
            if wait_s is not None and monotonic_clock() - started >= wait_s:
                raise CacheLocked(path=folder) from None
    try:
        yield
    finally:
        lock.release()
