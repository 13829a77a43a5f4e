"""Choosing the next token from a row of logits.

Filters in the order and with the meaning of transformers' logits processors: repetition penalty,
temperature, top_k, top_p, min_p; OpenAI's bias comes before them, its two penalties behind the first.
Each request has its own random generator and takes exactly one number from it per token, so that a
batched request chooses as it would alone. Knows nothing of text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from chatglm_backend.core import GenerationParams
from chatglm_backend.errors import EngineFailure
from chatglm_backend.sentences import Sentence

_FIRST_CANDIDATES = 256


class Sampler:
    """Chooses the tokens of one request."""

    def __init__(self, params: GenerationParams, prompt_ids: Iterable[int]) -> None:
        self._params = params
        self._penalised = params.repetition_penalty != 1.0
        self._seen: dict[int, None] = dict.fromkeys(prompt_ids) if self._penalised else {}
        self._counts: Counter[int] | None = Counter() if params.presence_penalty or params.frequency_penalty else None
        self._bias = tuple(map(torch.tensor, zip(*params.logit_bias, strict=True)))
        self._generator: torch.Generator | None = None
        if not params.greedy:
            self._generator = torch.Generator()
            if params.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(params.seed)

    def choose(self, logits: Tensor) -> int:
        """The next token id from ``logits`` [vocab] fp32, which is not changed. Counts the token as seen.

        NaN counts as impossible. Raises :class:`EngineFailure` when no token is possible.
        """
        token = self._greedy(logits) if self._generator is None else self._draw(logits, self._generator)
        if self._penalised:
            self._seen[token] = None
        if self._counts is not None:
            self._counts[token] += 1
        return token

    def _greedy(self, logits: Tensor) -> int:
        scores = self._adjusted(logits)
        token = int(scores.argmax())
        if not bool(scores[token].isfinite()):  # argmax lands on NaN or infinity if there is one
            token = int(_finite(scores).argmax())
        return token

    def _draw(self, logits: Tensor, generator: torch.Generator) -> int:
        scores = self._adjusted(logits)
        top = scores.max()
        if not bool(top.isfinite()):
            scores = _finite(scores)
            top = scores.max()
        elif bool(scores.isnan().any()):
            scores = _finite(scores)
        # Subtracting the maximum first keeps every exponent at or below zero, however small the temperature.
        weights = scores.sub(top).div_(max(self._params.temperature, 1e-30)).exp_()
        params = self._params
        ids, kept = keep_candidates(weights, top_k=params.top_k, top_p=params.top_p, min_p=params.min_p)
        cumulated = kept.double().cumsum(0)
        point = torch.rand((), generator=generator, dtype=torch.float64) * cumulated[-1]
        place = min(int(torch.searchsorted(cumulated, point, right=True)), len(kept) - 1)
        while float(kept[place]) == 0.0 and place > 0:
            place -= 1
        return place if ids is None else int(ids[place])

    def _adjusted(self, logits: Tensor) -> Tensor:
        """With bias and penalties; positive logits of seen tokens are divided by the repetition penalty, negative
        ones multiplied.
        """
        if self._bias:
            ids, values = self._bias
            logits = logits.index_add(0, ids, values.to(logits.dtype))
        if self._penalised:
            seen = torch.tensor(list(self._seen), dtype=torch.int64)
            values = logits[seen]
            penalty = self._params.repetition_penalty
            logits = logits.index_copy(0, seen, torch.where(values < 0, values * penalty, values / penalty))
        if self._counts:
            params, ids = self._params, torch.tensor(list(self._counts))
            counts = torch.tensor(list(self._counts.values()), dtype=logits.dtype)
            logits = logits.index_add(0, ids, -(params.presence_penalty + params.frequency_penalty * counts))
        return logits


def keep_candidates(
    weights: Tensor, *, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> tuple[Tensor | None, Tensor]:
    """The tokens that survive ``top_k`` (ties kept), then ``top_p``, then ``min_p`` times the likeliest one's weight.

    ``weights`` [vocab] are unnormalised probabilities. Returns their ids (``None``: all, in order) and weights.
    """
    ids, kept = _likeliest(weights, top_k, top_p)
    if min_p <= 0.0:
        return ids, kept
    able = (kept >= min_p * kept.max()).nonzero().flatten()
    return able if ids is None else ids[able], kept[able]


def _likeliest(weights: Tensor, top_k: int, top_p: float) -> tuple[Tensor | None, Tensor]:
    """What ``top_k`` and then ``top_p`` leave, the likeliest first where either does anything."""
    vocab = len(weights)
    ids: Tensor | None = None
    kept = weights
    if 0 < top_k < vocab:
        threshold = weights.topk(top_k).values[-1]
        kept, ids = weights.topk(int((weights >= threshold).sum()))
    if top_p >= 1.0:
        return ids, kept
    goal = top_p * float(kept.double().sum())
    if ids is not None:
        return _nucleus(kept, ids, goal)
    count = min(_FIRST_CANDIDATES, vocab)
    while True:
        best, best_ids = weights.topk(count)
        if count == vocab or float(best.double().sum()) >= goal:
            return _nucleus(best, best_ids, goal)
        count = min(count * 8, vocab)


def _nucleus(weights: Tensor, ids: Tensor, goal: float) -> tuple[Tensor, Tensor]:
    """Keep each token while the ones before it weigh less than ``goal``, and always the first."""
    before = weights.double().cumsum(0) - weights
    count = max(1, int((before < goal).sum()))
    return ids[:count], weights[:count]


def _finite(scores: Tensor) -> Tensor:
    """NaN becomes impossible, +inf the largest number. Raises :class:`EngineFailure` if nothing is possible."""
    limit = torch.finfo(scores.dtype).max
    cleaned = torch.where(scores.isnan(), -torch.inf, scores).clamp(max=limit)
    if bool(cleaned.max() == -torch.inf):
        raise EngineFailure(reason=Sentence("engine.not_finite"))
    return cleaned
