"""The chances of a prompt's own tokens, told while it is read. Knows prefills and logits; no request and no text."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from chatglm_backend.core import TokenChance
from chatglm_backend.models.prefill import Prefill

Chances = tuple[TokenChance, ...]


class ToldPrefill:
    """A prompt that is read some rows at a time, so that no more rows of logits [rows, vocab] exist at once.

    Goes on like a :class:`~chatglm_backend.models.prefill.Prefill`. ``chances`` are those of its tokens behind the
    first ``silent`` ones; the next has nothing of the text before it, and so no probability.
    """

    def __init__(
        self,
        ids: tuple[int, ...],
        begin: Callable[[tuple[int, ...]], Prefill],
        chances: Callable[[int, Tensor | None], Chances],
        *,
        rows: int,
        silent: int,
    ) -> None:
        """``begin`` reads further ids and gives logits of each; ``chances`` tells a token's from the row before it."""
        self.total = len(ids)
        self._ids = ids
        self._begin = begin
        self._chances_of = chances
        self._rows = rows
        self._silent = silent
        self._read = 0
        self._part = begin(ids[:rows])
        self.chances: list[Chances] = [chances(token, None) for token in ids[silent : silent + 1]]

    @property
    def done(self) -> int:
        """Prompt tokens' worth of work done, growing to ``total``."""
        return self._read + self._part.done if self._read < self.total else self.total

    @property
    def logits(self) -> Tensor:
        """fp32 [rows, vocab] of the last rows."""
        return self._part.logits

    def advance(self) -> bool:
        """Do one unit; True when the prompt is read to its end."""
        if not self._part.advance():
            return False
        for row in self._part.logits:
            self._read += 1
            if self._silent < self._read < self.total:
                self.chances.append(self._chances_of(self._ids[self._read], row))
        if self._read == self.total:
            return True
        self._part = self._begin(self._ids[self._read : self._read + self._rows])
        return False


def chances_of(token: int, logits: Tensor, count: int, spelling: Callable[[int], bytes]) -> Chances:
    """A token's, then those of the ``count`` likeliest among the possible, by ``logits`` [vocab] before any filter."""
    logprobs = logits.log_softmax(-1)
    best, ids = logprobs.topk(min(count, len(logprobs)))
    likeliest = [pair for pair in zip(ids.tolist(), best.tolist(), strict=True) if pair[1] > -math.inf]
    pairs = [(token, float(logprobs[token])), *likeliest]
    return tuple(TokenChance(one, spelling(one), chance) for one, chance in pairs)
