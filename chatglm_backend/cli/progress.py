"""A line on stderr about what takes long: a model that is made ready (stage, bytes, rate, time left), a batch.

On a terminal it is redrawn in place; in a log or pipe, a plain line tells of what takes long.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from chatglm_backend.cli.output import note
from chatglm_backend.core import Clock, LoadProgress, monotonic_clock
from chatglm_backend.sentences import Sentence
from chatglm_backend.units import clock_time, size

_REDRAW_S = 0.1
_PLAIN_AFTER_S, _PLAIN_EVERY_S = 15.0, 60.0
_WIDTH = 24

L = TypeVar("L", bound="StatusLine")


class StatusLine:
    """A line that says how far something is. A context manager; leaves no trace on a terminal."""

    def __init__(self, *, terminal: bool | None = None, clock: Clock = monotonic_clock) -> None:
        self._terminal = (sys.stderr is not None and sys.stderr.isatty()) if terminal is None else terminal
        self._clock = clock
        self._stage = ""
        self._began = self._drawn = 0.0
        self._shown = False

    def __enter__(self: L) -> L:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, stage: str, line: Callable[[float], str]) -> None:
        """Show what ``line`` makes of the seconds that the stage has taken.

        At most ten times a second on a terminal, else once a stage is slow, and every minute.
        """
        now = self._clock()
        if stage != self._stage:
            self._stage, self._began = stage, now
            self._drawn = now + _PLAIN_AFTER_S - _PLAIN_EVERY_S
        elif self._terminal and now - self._drawn < _REDRAW_S:
            return
        if not self._terminal:
            if now - self._drawn >= _PLAIN_EVERY_S:
                self._drawn = now
                note(line(now - self._began))
            return
        self._drawn, self._shown = now, True
        sys.stderr.write("\r\x1b[K" + line(now - self._began))
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class LoadBar(StatusLine):
    """Call it with each :class:`LoadProgress`."""

    _first = 0

    def __call__(self, progress: LoadProgress) -> None:
        """Show a report."""
        if progress.stage != self._stage:
            self._first = progress.done
        self.show(progress.stage, partial(self._line, progress))

    def _line(self, progress: LoadProgress, elapsed: float) -> str:
        text = Sentence(f"load.{progress.stage}")
        if not progress.total:
            return f"{text} ..."
        line = f"{text} {drawn(progress.done, progress.total)} {size(progress.done)} of {size(progress.total)}"
        moved = progress.done - self._first
        if elapsed > 0.5 and moved > 0:
            rate = moved / elapsed
            line += f", {size(int(rate))}/s, {clock_time((progress.total - progress.done) / rate)} left"
        return line


def drawn(done: int, total: int) -> str:
    """A bar of signs."""
    full = min(_WIDTH, _WIDTH * done // total)
    return f"[{'#' * full}{'-' * (_WIDTH - full)}]"
