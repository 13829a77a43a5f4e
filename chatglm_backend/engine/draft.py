"""Guessed tokens: where guesses come from, and how eagerly to make them.

Proposes only; the engine checks every guess against the model, so a guess changes speed and never text.
Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

_NGRAMS = (3, 2)
_FIRST_SIZE = 2
_FIRST_PAUSE = 4
_MAX_PAUSE = 64


class GuessSource(Protocol):
    """Has an opinion on how a sequence goes on."""

    def append(self, token: int) -> None:
        """One more token of the sequence."""
        ...

    def guess(self, size: int) -> tuple[int, ...]:
        """At most ``size`` tokens that may follow; none without an opinion."""
        ...


class PromptLookup:
    """Guesses what followed the last few tokens when they occurred before, in the prompt or the answer."""

    __slots__ = ("_ids", "_index")

    def __init__(self, prompt_ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._index: dict[tuple[int, ...], int] = {}
        for token in prompt_ids:
            self.append(token)

    def append(self, token: int) -> None:
        """See :class:`GuessSource`."""
        end = len(self._ids)
        # The n-gram that ends before this token is entered only now, so that a lookup never finds itself.
        for length in _NGRAMS:
            if length <= end:
                self._index[tuple(self._ids[end - length :])] = end
        self._ids.append(token)

    def guess(self, size: int) -> tuple[int, ...]:
        """See :class:`GuessSource`. A repetition is taken to go on repeating."""
        for length in _NGRAMS:
            start = self._index.get(tuple(self._ids[-length:]))
            if start is not None:
                period = self._ids[start : start + size]
                return tuple(period[place % len(period)] for place in range(size))
        return ()


class Drafter:
    """Asks a source for guesses, and learns from the verdicts how many to ask for, and how often.

    Right guesses double the next ones up to ``max_tokens``. Where none was right, it pauses, each
    time twice as long, so that hopeless text costs next to nothing.
    """

    __slots__ = ("_limit", "_misses", "_pause", "_size", "_source")

    def __init__(self, source: GuessSource, *, max_tokens: int) -> None:
        self._source = source
        self._limit = max_tokens
        self._size = min(_FIRST_SIZE, max_tokens)
        self._misses = 0
        self._pause = 0

    def append(self, token: int) -> None:
        """One more token of the sequence."""
        self._source.append(token)

    def propose(self, room: int) -> tuple[int, ...]:
        """At most ``room`` guesses, none while guessing does not pay. Call once per decode step."""
        if self._pause:
            self._pause -= 1
            return ()
        size = min(self._size, room)
        return self._source.guess(size) if size > 0 else ()

    def verdict(self, proposed: int, accepted: int) -> None:
        """Of ``proposed`` guesses, the first ``accepted`` were right."""
        if proposed == 0:
            return
        if accepted == 0:
            self._size = min(_FIRST_SIZE, self._limit)
            self._pause = min(_MAX_PAUSE, _FIRST_PAUSE << self._misses)
            self._misses = min(self._misses + 1, 8)
            return
        self._misses = 0
        self._size = min(self._limit, self._size * 2 if accepted == proposed else accepted + 1)
