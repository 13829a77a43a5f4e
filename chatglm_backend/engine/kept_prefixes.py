"""The KV of conversations beyond this process's memory: read from disk before a prompt, written after an answer.

Only for families whose K/V of a prefix do not depend on what follows. Whatever goes wrong costs time, never an answer.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

import torch

from chatglm_backend.core import GenerationRequest
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.store.kv_blocks import BLOCK, Binding, KVBlocks

_MIN_TOKENS = 256
_WAITING = 4

_log = logging.getLogger(__name__)
_Job = Callable[[], None]


class KeptPrefixes:
    """One model's. ``identity`` tells its weights and its numbers. Reading belongs to the engine's thread."""

    def __init__(self, blocks: KVBlocks, identity: str) -> None:
        self._blocks = blocks
        self._identity = identity
        self._jobs: queue.Queue[_Job] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def fill(self, request: GenerationRequest, ids: tuple[int, ...], cache: KVCache) -> int:
        """Put what the disk knows of ``ids`` behind what is in ``cache``; how many tokens it holds then.

        At least one token is always left to evaluate.
        """
        binding = self._binding(request, cache)
        if binding is None:
            return cache.length
        parts, heads, _, size = cache.rows(0, 0).shape
        try:
            while (first := cache.length) < len(ids) - 1:
                start = first // BLOCK * BLOCK
                same, data = self._blocks.read(binding, first // BLOCK, ids[:-1], cache.bytes_per_token)
                if start + same <= first:
                    break
                rows = torch.frombuffer(bytearray(data), dtype=cache.dtype).view(parts, heads, -1, size)
                cache.extend(rows[:, :, first - start : same])
        except Exception as error:  # noqa: BLE001 - what the cache holds up to its length is right
            _log.warning("a kept conversation could not be read", exc_info=error)
        return cache.length

    def keep(self, request: GenerationRequest, ids: tuple[int, ...], copy: KVCache) -> None:
        """Write the K/V of ``ids`` some time soon; ``copy`` changes no more. Nothing waits for it."""
        binding = self._binding(request, copy)
        if binding is None or len(ids) < _MIN_TOKENS or copy.plan is None or copy.plan.context:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kept prefixes", daemon=True)
            self._thread.start()

        def block(start: int, end: int) -> bytes:
            return copy.rows(start, end).view(torch.uint8).numpy().tobytes()

        try:
            self._jobs.put_nowait(lambda: self._blocks.write(binding, ids, copy.bytes_per_token, block))
        except queue.Full:
            _log.info("the disk is behind; a conversation's keys and values are not kept")

    def wait(self, seconds: float) -> None:
        """Until all is written, or that long."""
        until = time.monotonic() + seconds
        while self._jobs.unfinished_tasks and time.monotonic() < until:
            time.sleep(0.01)

    def _binding(self, request: GenerationRequest, cache: KVCache) -> Binding | None:
        if request.kept_as is None:
            return None
        adapter = "" if cache.adapter is None else cache.adapter.identity
        return Binding(request.kept_as, f"{self._identity}\n{cache.dtype}\n{adapter}")

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception as error:  # noqa: BLE001 - a full disk, say
                _log.warning("a conversation's keys and values could not be kept", exc_info=error)
            finally:
                self._jobs.task_done()
