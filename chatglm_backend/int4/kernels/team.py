"""The threads that share a product's work, and the buffers they share.

numba's pool does the work; its OpenMP layer is preferred, because with torch imported first
both use one and the same OpenMP library, so that there is one set of threads and not two.
One product at a time: numba's fallback layer ("workqueue") must not be entered twice, and the
buffers are shared, so a lock is held around each product. Any thread may call.
Knows addresses and counts; knows nothing of tensors' meaning.
"""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatglm_backend.int4.kernels.driver import Driver, Word, build_driver
from chatglm_backend.int4.kernels.emit_blocks import Arg
from chatglm_backend.int4.kernels.layout import BLOCK, GROUP
from chatglm_backend.int4.kernels.objects import seal, sealed
from chatglm_backend.leftovers import remove_leftovers

Words = np.ndarray[Any, np.dtype[np.int64]]
"""int64 words that compiled code reads."""

TILE_ROWS = 128
"""Most rows that one pass of the tile kernel takes: their sums fit the L1 cache."""
PIECES_PER_THREAD = 8
"""Into how many pieces each thread's share is cut, to be done by whichever thread has a core."""
RECORDED_ROWS = 16
"""Rows that buffers of recorded steps have room for at once; they still grow where a recording has more."""
_WORK_PER_THREAD = 256 * 1024
"""Weights that one thread multiplies in some 5 to 10 microseconds, about what waking another costs."""
_PARALLEL_QUANTIZE = 128 * 1024
"""From this many activations on, quantising is shared between threads; below, waking them costs more."""


class Work:
    """Buffers for one call: quantised activations, sums of tiles, the argument block. Grows, never shrinks.

    They have room for ``least_rows`` rows at once, so that they do not grow with each further row.
    """

    def __init__(self, threads: int, least_rows: int = 1) -> None:
        self._least_rows = least_rows
        self.args = np.zeros(len(Arg), np.int64)
        self.scratch = np.zeros((threads, TILE_ROWS, GROUP), np.float32)
        self.buffers: tuple[np.ndarray[Any, Any], ...] = (
            np.empty(0, np.int8), np.empty(0, np.float32), np.empty(0, np.int32),
        )  # fmt: skip
        """The values, scales and offsets that ``args`` points to; others once there is more room."""
        self.sides: object = None
        """What the side paths at hand point to."""

    def reserve(self, rows: int, blocks: int) -> None:
        """Make room for ``rows`` x ``blocks`` 64-blocks and note the addresses in ``args``."""
        count = max(rows, self._least_rows) * blocks
        if self.buffers[1].size < count:
            self.buffers = np.empty(count * BLOCK, np.int8), np.empty(count, np.float32), np.empty(count, np.int32)
            for word, buffer in zip((Arg.XQ, Arg.XS, Arg.XC), self.buffers, strict=True):
                self.args[word] = buffer.ctypes.data


Pool = dict[int, list[Tensor]]
"""fp32 memory by numbers, always a power of 2, which recordings that are never played at the same time share."""


@dataclass(slots=True)
class Recording:
    """The steps that a team did, with argument blocks of their own and all that their addresses point to.

    ``whole`` turns False when something was done that is not among the steps. ``free`` is the part of ``pool`` that no
    result lies in: later steps write there, as they do when the steps are done again in the same order.
    """

    work: Work
    pool: Pool
    free: Pool
    steps: list[tuple[int, ...]] = field(default_factory=list)
    args: list[Words] = field(default_factory=list)
    kept: list[object] = field(default_factory=list)
    whole: bool = True

    def empty(self, numbers: int) -> Tensor:
        """Uninitialised fp32 [numbers]."""
        room = min((size for size, free in self.free.items() if free and size >= numbers), default=0)
        if not room:
            room = 1 << (numbers - 1).bit_length()
            memory = torch.empty(room)
            self.pool.setdefault(room, []).append(memory)
            self.free.setdefault(room, []).append(memory)
        free = self.free[room]
        memory = free.pop()
        self.kept.append(memory)
        # The tensor keeps this array, not its own memory: with the last view of it goes the array.
        array = memory.numpy()[:numbers]
        weakref.finalize(array, free.append, memory).atexit = False
        return torch.from_numpy(array)

    def add(self, step: Words, args: Words) -> None:
        """A step that was just done with ``args``."""
        mine = args.copy()
        words = step.copy()
        words[Word.ARGS] = mine.ctypes.data
        self.steps.append(tuple(words.tolist()))
        self.args.append(mine)
        self.kept.append(self.work.buffers)


class Team:
    """``threads`` threads with a compiled driver. ``cache`` is where numba keeps it (``None``: nowhere)."""

    def __init__(self, threads: int, cache: Path | None = None) -> None:
        import numba

        numba.config.THREADING_LAYER_PRIORITY = ["omp", "workqueue", "tbb"]
        torch_threads = torch.get_num_threads()
        self.threads = max(1, min(threads, int(numba.config.NUMBA_NUM_THREADS)))
        self.lock = threading.RLock()
        self.work, self._recorded_work = Work(self.threads), Work(self.threads, RECORDED_ROWS)
        self._driver = _load_driver(cache)
        numba.set_num_threads(self.threads)
        # numba's pool has now started, and set the shared OpenMP library to all processors: torch's and bigdl's too.
        torch.set_num_threads(torch_threads)
        self._local = threading.local()
        self._counter = np.zeros(1, np.int64)
        self._step = np.zeros(len(Word), np.int64)
        self._addresses = int(self._step.ctypes.data), int(self._counter.ctypes.data)

    @property
    def _recording(self) -> Recording | None:
        """What this thread records: what others do meanwhile is not among its steps, nor in its memory."""
        recording: Recording | None = getattr(self._local, "recording", None)
        return recording

    def empty(self, rows: int, units: int) -> Tensor:
        """Uninitialised fp32 for a result."""
        if self._recording is not None:
            return self._recording.empty(rows * units).view(rows, units)
        return torch.empty(rows, units)

    def keep(self, operand: object) -> None:
        """A recording points to this memory, so it has to stay."""
        if self._recording is not None:
            self._recording.kept.append(operand)

    def run(self, quantize: int, kernel: int, rows: int, in_: int, groups: int) -> None:
        """Quantise the activations at ``args[X]`` and run ``kernel`` on ``groups`` groups. Hold ``lock``."""
        args, blocks, scratch = self.work.args, in_ // BLOCK, self.work.scratch
        args[Arg.BLOCKS], args[Arg.ROWS] = blocks, rows
        parts = self.parts_for(groups * GROUP * in_ * max(1, rows // 4), groups)
        quantize_parts = 1 if rows * in_ < _PARALLEL_QUANTIZE else min(self.threads, blocks)
        passes = max(1, -(-rows // TILE_ROWS))
        for index in range(passes):
            args[Arg.ROW0], args[Arg.ROW1] = rows * index // passes, rows * (index + 1) // passes
            self._step[:] = (
                quantize if index == 0 else 0, blocks, quantize_parts,
                kernel, args.ctypes.data, groups, parts, self.pieces(parts, groups),
                scratch.ctypes.data, scratch.strides[0],
            )  # fmt: skip
            self._do(args)

    def parts_for(self, work: int, pieces: int) -> int:
        """How many threads ``work`` weights (times rows) are worth: a few, where waking more would cost more."""
        return max(1, min(self.threads, pieces, work // _WORK_PER_THREAD))

    def pieces(self, parts: int, items: int) -> int:
        """Into how many pieces ``items`` are cut for ``parts`` threads."""
        return min(items, parts * PIECES_PER_THREAD)

    def share(
        self, kernel: int, args: Words, items: int, *, work: int, scratch: int = 0, scratch_stride: int = 0
    ) -> None:
        """Run ``kernel`` on ``items`` equal pieces of work, with scratch of its own for each thread. Hold ``lock``."""
        parts = self.parts_for(work, items)
        pieces = self.pieces(parts, items)
        self._step[:] = (0, 0, 1, kernel, args.ctypes.data, items, parts, pieces, scratch, scratch_stride)
        self._do(args)

    @contextmanager
    def recording(self, pool: Pool) -> Iterator[Recording]:
        """Note every step until the end, with results in ``pool``; other threads wait meanwhile."""
        with self.lock:
            before, self.work = self.work, self._recorded_work
            recording = Recording(self.work, pool, {room: memory[:] for room, memory in pool.items()})
            self._local.recording = recording
            try:
                yield recording
            finally:
                self.work, self._local.recording = before, None

    def spoil(self) -> None:
        """Something is being done that is no step: a recording is not whole."""
        if self._recording is not None:
            self._recording.whole = False

    def play(self, program: Words) -> None:
        """Do recorded steps, int64 [steps, words], in one call. Hold ``lock``."""
        self._use_threads()
        self._driver(program.ctypes.data, len(program), self._addresses[1])

    def _do(self, args: Words) -> None:
        self._use_threads()
        self._driver(self._addresses[0], 1, self._addresses[1])
        if self._recording is not None:
            self._recording.add(self._step, args)

    def _use_threads(self) -> None:
        """Numba's thread count belongs to the calling thread."""
        if getattr(self._local, "threads", 0) != self.threads:
            import numba

            numba.set_num_threads(self.threads)
            self._local.threads = self.threads


def _load_driver(cache: Path | None) -> Driver:
    """From ``cache`` where it is there and every byte is right; else compiled, and kept there where that is possible.

    numba reads what it finds without a check: one changed bit in it can end the process.
    """
    if cache is None:
        return build_driver(cached=False)
    folder, part = cache / "numba", cache / f"numba.{os.getpid()}.part"
    try:
        if sealed(folder):
            driver = _build_in(folder)
            if not sealed(folder):  # by an older version of the driver
                seal(folder)
            return driver
        remove_leftovers(cache, "numba.*.part")
        driver = _build_in(part)
        seal(part)
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
        return driver
    except Exception:  # noqa: BLE001 - a cache can fail in any way; it is only a cache
        return build_driver(cached=False)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _build_in(folder: Path) -> Driver:
    """With numba's cache in a folder. Raises OSError where it takes no files."""
    import numba

    before = numba.config.CACHE_DIR
    folder.mkdir(parents=True, exist_ok=True)
    try:
        numba.config.CACHE_DIR = str(folder)
        return build_driver(cached=True)
    finally:
        numba.config.CACHE_DIR = before
