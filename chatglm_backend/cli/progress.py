"""A line on stderr while a model is made ready: stage, bytes, rate, time left.

On a terminal it is redrawn in place; in a log or pipe, a plain line tells of what takes long.
"""

from __future__ import annotations

import sys

from chatglm_backend.cli.output import note
from chatglm_backend.core import Clock, LoadProgress, monotonic_clock
from chatglm_backend.sentences import Sentence
from chatglm_backend.units import size

_REDRAW_S = 0.1
_PLAIN_AFTER_S, _PLAIN_EVERY_S = 15.0, 60.0
_WIDTH = 24


class LoadBar:
    """Call it with each :class:`LoadProgress`. A context manager; leaves no trace on a terminal."""

    def __init__(self, *, terminal: bool | None = None, clock: Clock = monotonic_clock) -> None:
        self._terminal = (sys.stderr is not None and sys.stderr.isatty()) if terminal is None else terminal
        self._clock = clock
        self._stage = ""
        self._began = self._drawn = 0.0
        self._first = 0
        self._shown = False

    def __enter__(self) -> LoadBar:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def __call__(self, progress: LoadProgress) -> None:
        """Show a report: at most ten times a second on a terminal, else once a stage is slow, and every minute."""
        now = self._clock()
        if progress.stage != self._stage:
            self._stage, self._began, self._first = progress.stage, now, progress.done
            self._drawn = now + _PLAIN_AFTER_S - _PLAIN_EVERY_S
        elif self._terminal and now - self._drawn < _REDRAW_S:
            return
        if not self._terminal:
            if now - self._drawn >= _PLAIN_EVERY_S:
                self._drawn = now
                note(self._line(progress, now))
            return
        self._drawn, self._shown = now, True
        sys.stderr.write("\r\x1b[K" + self._line(progress, now))
        sys.stderr.flush()

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _line(self, progress: LoadProgress, now: float) -> str:
        text = Sentence(f"load.{progress.stage}")
        if not progress.total:
            return f"{text} ..."
        full = min(_WIDTH, _WIDTH * progress.done // progress.total)
        bar = "#" * full + "-" * (_WIDTH - full)
        line = f"{text} [{bar}] {size(progress.done)} of {size(progress.total)}"
        elapsed, moved = now - self._began, progress.done - self._first
        if elapsed > 0.5 and moved > 0:
            rate = moved / elapsed
            left = (progress.total - progress.done) / rate
            line += f", {size(int(rate))}/s, {int(left) // 60}:{int(left) % 60:02d} left"
        return line
