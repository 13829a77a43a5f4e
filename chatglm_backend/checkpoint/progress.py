"""How the long steps of this room report progress and hear of cancellation. Standard library only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from chatglm_backend.core import CancelToken, Clock, LoadProgress, monotonic_clock
from chatglm_backend.errors import LoadCancelled
from chatglm_backend.sentences import Sentence

Progress = Callable[[LoadProgress], None]
Note = Callable[[Sentence], None]
"""Takes one sentence for the user."""


def silent(_: object) -> None:
    """Report nothing."""


def check_cancel(cancel: CancelToken | None, model: str) -> None:
    """Raise LoadCancelled when the user asked for the end."""
    if cancel is not None and cancel.cancelled:
        raise LoadCancelled(model=model)


@dataclass(frozen=True, slots=True)
class Rate:
    """Bytes per second and seconds left; ``None`` until enough is known."""

    bytes_per_s: float | None = None
    seconds_left: float | None = None


class RateMeter:
    """Turns a row of :class:`LoadProgress` into a rate over the last seconds and the time left."""

    def __init__(self, *, window_s: float = 10.0, clock: Clock = monotonic_clock) -> None:
        self._window_s = window_s
        self._clock = clock
        self._stage = ""
        self._points: deque[tuple[float, int]] = deque()

    def update(self, progress: LoadProgress) -> Rate:
        """Take in one report; a new stage starts afresh."""
        if progress.stage != self._stage or (self._points and progress.done < self._points[-1][1]):
            self._stage = progress.stage
            self._points.clear()
        now = self._clock()
        self._points.append((now, progress.done))
        while len(self._points) > 2 and now - self._points[0][0] > self._window_s:
            self._points.popleft()
        start, done = self._points[0]
        if now <= start or progress.done <= done:
            return Rate()
        rate = (progress.done - done) / (now - start)
        left = max(progress.total - progress.done, 0) / rate if progress.total else None
        return Rate(rate, left)
