"""Draft tokens (speculative decoding): where they come from, and how many of them pay.

Proposes only; the engine checks each against the model, so a draft token changes speed and never text.
Knows token ids only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

_NGRAMS = (8, 4, 2)
_LONGEST = 32
"""Matches of so many tokens are as good as longer ones."""
_MOST_PLACES = 32
_LIKELY = 0.5
_FIRST_SIZE = 2
_FIRST_PAUSE = 16
_MAX_PAUSE = 256
_MEMORY = 0.8
_LEARNING = 0.3
_WORTHWHILE = 1.1
_SHARE = 0.025
"""Of the time of plain steps, what wrong drafts may take in all, at any moment of an answer: a little less than the
3 % that are promised, as looking up takes time too."""
_MOST_CREDIT = 4.0
"""Plain steps that a time of right drafts may save up for later wrong ones."""
_UNKNOWN_COST = 0.1
"""What a draft token is taken to cost, in plain steps, before one was measured."""


class DraftSource(Protocol):
    """Has an opinion on how a sequence goes on."""

    def append(self, token: int) -> None:
        """One more token of the sequence."""

    def propose(self, size: int) -> tuple[int, ...]:
        """At most ``size`` tokens that may follow; none without an opinion."""


class PromptLookup:
    """Proposes what followed the last few tokens when they occurred before, in what is known or in the answer.

    The longest such place decides; of several as long, what followed them most often, and then what did so last.
    """

    def __init__(self, known_ids: Iterable[int]) -> None:
        self._ids: list[int] = []
        self._ends: dict[tuple[int, ...], list[int]] = {}
        for token in known_ids:
            self.append(token)

    def append(self, token: int) -> None:
        """See :class:`DraftSource`."""
        end = len(self._ids)
        # The n-gram that ends before this token is entered only now, so that a lookup never finds itself.
        for length in _NGRAMS:
            if length <= end:
                self._ends.setdefault(tuple(self._ids[end - length :]), []).append(end)
        self._ids.append(token)

    def propose(self, size: int) -> tuple[int, ...]:
        """See :class:`DraftSource`. A repetition is taken to go on repeating; a mere minority is no opinion."""
        ends: list[int] = []
        for length in _NGRAMS:
            ends = ends or self._ends.get(tuple(self._ids[-length:]), [])[-_MOST_PLACES:]
        matches = [self._match(end) for end in ends]
        ends = [end for end, match in zip(ends, matches, strict=True) if match == max(matches)]
        ids = self._ids.copy()
        for place in range(size if ends else 0):
            token, count = Counter(ids[end + place] for end in reversed(ends)).most_common(1)[0]
            if count < _LIKELY * len(ends):
                break
            ends = [end for end in ends if ids[end + place] == token]
            ids.append(token)
        return tuple(ids[len(self._ids) :])

    def _match(self, end: int) -> int:
        """How many tokens before ``end`` are the last ones again."""
        ids, length = self._ids, 0
        while length < min(end, _LONGEST) and ids[end - 1 - length] == ids[-1 - length]:
            length += 1
        return length


class StepCosts:
    """How long a decode step takes by its rows, as measured: draft tokens are almost free on some kernels only."""

    def __init__(self) -> None:
        self._seconds: dict[int, dict[int, float]] = {}

    def record(self, sequences: int, rows: int, seconds: float) -> None:
        """A step of so many ``sequences``, ``rows`` with their draft tokens, took ``seconds``."""
        known = self._seconds.setdefault(sequences, {})
        extra = rows - sequences
        before = known.get(extra, seconds)
        # Nothing makes a step faster than it is, and much makes one of them slower.
        known[extra] = min(seconds, before + _LEARNING * (seconds - before))

    def reach(self, sequences: int) -> int:
        """How many draft tokens may be tried in one step: twice what was measured, so that surprises stay small."""
        known = self._seconds.get(sequences)
        return 0 if not known else max(_FIRST_SIZE, 2 * max(known))

    def ratio(self, sequences: int, extra: int) -> float:
        """The time of a step with ``extra`` draft tokens over a plain one's; from 1 to what ``extra`` steps would add.

        More than that is no cost of drafts: something else had the processor.
        """
        known = self._seconds.get(sequences, {})
        plain = known.get(0, 0.0)
        if plain <= 0.0 or extra == 0:
            return 1.0
        measured = [size for size in known if size > 0]
        if not measured:
            return 1.0 + _UNKNOWN_COST * extra
        nearest = min(measured, key=lambda size: (abs(size - extra), -size))
        slope = (known[nearest] - plain) / nearest
        return min(1.0 + extra, max(1.0, (plain + slope * extra) / plain))


class Drafter:
    """Asks a source for as many draft tokens as pay at the measured cost and acceptance of late.

    Where none pay, it tries again after a pause, each time twice as long, so that hopeless text
    costs next to nothing. What is lost to wrong drafts comes out of a credit: a small share of every
    token's time, and the time that right ones saved. A draft that could overdraw it is not made.
    """

    def __init__(self, source: DraftSource, *, max_tokens: int) -> None:
        self._source = source
        self._limit = max_tokens
        self._right = 1.0
        self._wrong = 1.0
        self._pause = 0
        self._next_pause = _FIRST_PAUSE
        self._credit = 0.0
        self._cost: Callable[[int], float] = lambda _: 1.0

    def append(self, token: int) -> None:
        """One more token of the sequence."""
        self._credit = min(_MOST_CREDIT, self._credit + _SHARE)
        self._source.append(token)

    def propose(self, room: int, cost: Callable[[int], float]) -> tuple[int, ...]:
        """At most ``room`` draft tokens; ``cost`` is a step's relative time by their number. Once a decode step."""
        if self._pause:
            self._pause -= 1
            return ()
        self._cost = cost
        sizes = [size for size in range(1, min(room, self._limit) + 1) if cost(size) - 1.0 <= self._credit]
        if not sizes:
            return ()
        size = self._best_size(sizes, cost)
        if size == 0:
            self._pause, self._next_pause = self._next_pause, min(_MAX_PAUSE, 2 * self._next_pause)
            size = 1 if self._pause > _FIRST_PAUSE and sizes[0] == 1 else 0
        return self._source.propose(size) if size else ()

    def verdict(self, proposed: int, accepted: int) -> None:
        """Of ``proposed`` draft tokens the first ``accepted`` were right; ``cost`` knows the step's time by now."""
        if proposed == 0:
            return
        self._credit = min(_MOST_CREDIT, self._credit + accepted - (self._cost(proposed) - 1.0))
        self._right = _MEMORY * self._right + accepted
        self._wrong = _MEMORY * self._wrong + (accepted < proposed)
        if accepted:
            self._pause, self._next_pause = 0, _FIRST_PAUSE

    def _best_size(self, sizes: Iterable[int], cost: Callable[[int], float]) -> int:
        """The one of ``sizes`` with the most tokens per time, if that clearly beats no draft."""
        chance = self._right / (self._right + self._wrong)
        best, best_gain = 0, _WORTHWHILE
        for size in sizes:
            tokens = 1.0 + sum(chance**place for place in range(1, size + 1))
            gain = tokens / cost(size)
            if gain > best_gain:
                best, best_gain = size, gain
        return best
