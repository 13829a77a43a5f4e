"""When things happened to one request, from one injected clock.

Knows moments only, not what was made in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from chatglm_backend.core import Clock, Timing


class RequestTimer:
    """Collects the moments of one request and turns them into a :class:`Timing`."""

    def __init__(self, clock: Clock, submitted_at: float) -> None:
        self._clock = clock
        self._submitted = submitted_at
        self._prefill_started: float | None = None
        self._prefill_ended: float | None = None
        self._token_times: list[float] = []

    def work_begins(self) -> None:
        """The first unit of work starts; later calls change nothing."""
        if self._prefill_started is None:
            self._prefill_started = self._clock()

    def prompt_read(self) -> None:
        """The whole prompt is in the KV cache."""
        self._prefill_ended = self._clock()

    def token(self) -> None:
        """A token was chosen."""
        self._token_times.append(self._clock())

    def finish(self, *, evaluated_prompt_tokens: int) -> Timing:
        """The figures up to now; ``evaluated_prompt_tokens`` leaves the reused ones out."""
        now = self._clock()
        times = self._token_times
        gaps = sorted(1000.0 * (later - earlier) for earlier, later in pairwise(times))
        prefill_s = None
        if self._prefill_started is not None and self._prefill_ended is not None:
            prefill_s = self._prefill_ended - self._prefill_started
        started = now if self._prefill_started is None else self._prefill_started
        return Timing(
            queue_wait_s=max(0.0, started - self._submitted),
            ttft_s=times[0] - self._submitted if times else None,
            prefill_s=prefill_s,
            prefill_tok_s=_rate(evaluated_prompt_tokens, prefill_s),
            decode_tok_s=_rate(len(times) - 1, times[-1] - times[0]) if len(times) > 1 else None,
            itl_p50_ms=percentile(gaps, 0.50),
            itl_p95_ms=percentile(gaps, 0.95),
            total_s=now - self._submitted,
        )


def percentile(ordered: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` of the ``ordered`` values lie, interpolated; ``None`` for no values."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _rate(count: int, seconds: float | None) -> float | None:
    return count / seconds if seconds is not None and seconds > 0 else None
