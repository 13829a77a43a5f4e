"""Guessed tokens by prompt lookup: what followed the last few tokens when they occurred before.

Proposes only; the engine checks every guess against the model, so a guess changes speed and never text.
Knows token ids only.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST_NGRAM = 3
_MAX_PAUSE = 64


class PromptLookup:
    """Proposes continuations for one sequence and learns from the verdicts how eagerly to do so."""

    __slots__ = ("_ids", "_index", "_limit", "_misses", "_pause", "_size")

    def __init__(self, prompt_ids: Iterable[int], *, max_tokens: int) -> None:
        self._limit = max_tokens
        self._size = min(2, max_tokens)
        self._misses = 0
        self._pause = 0
        self._ids: list[int] = []
        self._index: dict[tuple[int, ...], int] = {}
        for token in prompt_ids:
            self.append(token)

    def append(self, token: int) -> None:
        """One more token of the sequence."""
        end = len(self._ids)
        # The n-gram that ends before this token is entered only now, so that a lookup never finds itself.
        for length in range(1, min(_LONGEST_NGRAM, end) + 1):
            self._index[tuple(self._ids[end - length :])] = end
        self._ids.append(token)

    def propose(self, room: int) -> tuple[int, ...]:
        """At most ``room`` guessed tokens, none while guessing does not pay. Call once per decode step."""
        if self._pause:
            self._pause -= 1
            return ()
        size = min(self._size, room)
        shortest = 1 if self._misses == 0 and self._size > 2 else 2
        for length in range(_LONGEST_NGRAM, shortest - 1, -1):
            start = self._index.get(tuple(self._ids[-length:])) if len(self._ids) >= length else None
            if start is not None and size > 0:
                period = self._ids[start:]
                return tuple(period[place % len(period)] for place in range(size))
        return ()

    def verdict(self, proposed: int, accepted: int) -> None:
        """Of ``proposed`` guesses ``accepted`` were right: guess more, fewer, or not for a while."""
        if proposed == 0:
            return
        if accepted == proposed:
            self._size = min(self._limit, self._size * 2)
            self._misses = 0
        elif accepted == 0:
            self._size = min(2, self._limit)
            self._pause = min(_MAX_PAUSE, 4 << self._misses)
            self._misses = min(self._misses + 1, 8)
        else:
            self._size = max(1, min(self._limit, accepted + 1))
            self._misses = 0
