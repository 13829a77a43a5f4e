"""Counters and histograms of the worker, as plain numbers.

Knows nothing of how they are shown. Not thread-safe: the worker locks and hands out copies.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections import Counter
from dataclasses import asdict, dataclass, field, replace

from chatglm_backend.core import Completed

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_MOST_ADAPTERS = 64


class Histogram:
    """``counts[i]`` values were at most ``bounds[i]`` and above the bound before; the last counts the rest."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class Metrics:
    """Everything since the start; ``running``, ``waiting`` and ``kv_reserved_bytes`` are of the moment of a copy.

    ``refused`` and ``failed`` go by error code, ``finished`` by finish reason, ``tokens`` by the names of
    :class:`~chatglm_backend.core.Usage`.
    """

    accepted: int = 0
    adapters: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    queue_wait_s: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    ttft_s: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    itl_s: Histogram = field(default_factory=lambda: Histogram(TOKEN_SECONDS))
    total_s: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    running: int = 0
    waiting: int = 0
    kv_reserved_bytes: int = 0

    @property
    def mean_running_s(self) -> float | None:
        """How long a request takes once it has left the queue, on average; ``None`` before the first."""
        count = self.total_s.count
        return (self.total_s.sum - self.queue_wait_s.sum) / count if count else None

    def taken(self, adapter: str) -> None:
        """Count a request that was taken into the queue; of fine-tunes only so many by name."""
        self.accepted += 1
        if adapter:
            known = adapter in self.adapters or len(self.adapters) < _MOST_ADAPTERS
            self.adapters[adapter if known else "other"] += 1

    def completed(self, event: Completed) -> None:
        """Count a request that ended in the engine."""
        self.finished[event.finish_reason.value] += 1
        timing = event.timing
        self.tokens.update(asdict(event.usage))
        self.queue_wait_s.observe(timing.queue_wait_s)
        self.total_s.observe(timing.total_s)
        if timing.ttft_s is not None:
            self.ttft_s.observe(timing.ttft_s)

    def snapshot(self, *, running: int, waiting: int, kv_reserved_bytes: int) -> Metrics:
        """A copy, with what is so at this moment."""
        return replace(copy.deepcopy(self), running=running, waiting=waiting, kv_reserved_bytes=kv_reserved_bytes)
