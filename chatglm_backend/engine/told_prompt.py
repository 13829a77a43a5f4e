"""The chances of a prompt's own tokens, told while it is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import takewhile

from torch import Tensor

from chatglm_backend.core import TokenChance
from chatglm_backend.engine.options import PreparedRequest
from chatglm_backend.models.prefill import Prefill
from chatglm_backend.tokenizers.base import Tokenizer

Chances = tuple[TokenChance, ...]


class ToldPrefill:
    """A prompt that is read some rows at a time, so that no more rows of logits [rows, vocab] exist at once.

    Goes on like a :class:`~chatglm_backend.models.prefill.Prefill`. ``chances`` are those of the text's tokens, whose
    first has nothing of the text before it, and so no probability.
    """

    def __init__(
        self, ready: PreparedRequest, read: Callable[..., Prefill], tokenizer: Tokenizer, *, rows: int
    ) -> None:
        """``read`` begins with further ids and gives the logits of ``logit_rows``."""
        self._ids = ids = ready.prompt_ids
        self.total = len(ids)
        self._begin = read
        self._count = ready.request.params.logprobs or 0
        self._spelling = tokenizer.spelling
        self._rows = rows
        self._silent = len([*takewhile(tokenizer.control_ids.__contains__, ids)])
        self._read = 0
        self._part = self._next()
        self.chances: list[Chances] = []
        for token in ids[self._silent : self._silent + 1]:
            spelt = self._spelling(token)
            if not (ready.request.prompt or "").startswith(" "):
                spelt = spelt.removeprefix(b" ")  # vocabularies put it before a text
            self.chances.append((TokenChance(token, spelt, None),))

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
                self.chances.append(chances_of(self._ids[self._read], row, self._count, self._spelling))
        if self._read == self.total:
            return True
        self._part = self._next()
        return False

    def _next(self) -> Prefill:
        ids = self._ids[self._read : self._read + self._rows]
        return self._begin(ids, logit_rows=len(ids))


def chances_of(token: int, logits: Tensor, count: int, spelling: Callable[[int], bytes]) -> Chances:
    """A token's, then those of the ``count`` likeliest among the possible, by ``logits`` [vocab] before any filter."""
    logprobs = logits.log_softmax(-1)
    best, ids = logprobs.topk(min(count, len(logprobs)))
    likeliest = [pair for pair in zip(ids.tolist(), best.tolist(), strict=True) if pair[1] > -math.inf]
    pairs = [(token, float(logprobs[token])), *likeliest]
    return tuple(TokenChance(one, spelling(one), chance) for one, chance in pairs)
