"""Counters and histograms of the worker, as plain numbers.

Knows nothing of how they are shown. Not thread-safe: the worker locks and hands out snapshots.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from chatglm_backend.core import Completed

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_MOST_ADAPTERS = 64
TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """``counts[i]`` values were at most ``bounds[i]`` and above the bound before; the last counts the rest."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


class Histogram:
    """Counts values by fixed bounds."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def snapshot(self) -> HistogramSnapshot:
        """The counts now."""
        return HistogramSnapshot(self._bounds, tuple(self._counts), self._sum)


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """Everything since the start; ``running``, ``waiting`` and ``kv_reserved_bytes`` are of this moment."""

    running: int
    waiting: int
    kv_reserved_bytes: int
    accepted: int
    adapters: Mapping[str, int]
    refused: Mapping[str, int]
    finished: Mapping[str, int]
    failed: Mapping[str, int]
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    draft_tokens: int
    accepted_draft_tokens: int
    queue_wait_s: HistogramSnapshot
    ttft_s: HistogramSnapshot
    itl_s: HistogramSnapshot
    total_s: HistogramSnapshot


class Metrics:
    """What the worker counts. ``refused`` and ``failed`` go by error code, ``finished`` by finish reason."""

    def __init__(self) -> None:
        self.accepted = 0
        self._adapters: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.itl_s = Histogram(TOKEN_SECONDS)
        self._tokens: Counter[str] = Counter()
        self._queue_wait_s = Histogram(SECONDS)
        self._ttft_s = Histogram(SECONDS)
        self._total_s = Histogram(SECONDS)
        self._running_s = 0.0

    @property
    def mean_running_s(self) -> float | None:
        """How long a request takes once it has left the queue, on average; ``None`` before the first."""
        count = self._total_s.snapshot().count
        return self._running_s / count if count else None

    def taken(self, adapter: str) -> None:
        """Count a request that was taken into the queue; of fine-tunes only so many by name."""
        self.accepted += 1
        if adapter:
            known = adapter in self._adapters or len(self._adapters) < _MOST_ADAPTERS
            self._adapters[adapter if known else "other"] += 1

    def completed(self, event: Completed) -> None:
        """Count a request that ended in the engine."""
        self.finished[event.finish_reason.value] += 1
        timing = event.timing
        self._tokens.update(asdict(event.usage))
        self._queue_wait_s.observe(timing.queue_wait_s)
        self._total_s.observe(timing.total_s)
        self._running_s += timing.total_s - timing.queue_wait_s
        if timing.ttft_s is not None:
            self._ttft_s.observe(timing.ttft_s)

    def snapshot(self, *, running: int, waiting: int, kv_reserved_bytes: int) -> MetricsSnapshot:
        """Everything at this moment."""
        return MetricsSnapshot(
            running=running,
            waiting=waiting,
            kv_reserved_bytes=kv_reserved_bytes,
            accepted=self.accepted,
            adapters=dict(self._adapters),
            refused=dict(self.refused),
            finished=dict(self.finished),
            failed=dict(self.failed),
            prompt_tokens=self._tokens["prompt_tokens"],
            cached_tokens=self._tokens["cached_tokens"],
            completion_tokens=self._tokens["completion_tokens"],
            draft_tokens=self._tokens["draft_tokens"],
            accepted_draft_tokens=self._tokens["accepted_draft_tokens"],
            queue_wait_s=self._queue_wait_s.snapshot(),
            ttft_s=self._ttft_s.snapshot(),
            itl_s=self.itl_s.snapshot(),
            total_s=self._total_s.snapshot(),
        )
