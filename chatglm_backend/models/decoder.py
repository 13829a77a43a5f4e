"""The forward pass that both families share: prompts by a :class:`Prefill`, then decode steps in batches.

Knows the order of work and the caches; a family's layers know the arithmetic, and its planner where tokens stand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.network import Network
from chatglm_backend.models.ops import Place
from chatglm_backend.models.positions import PositionPlan
from chatglm_backend.models.prefill import Prefill, prefill_of
from chatglm_backend.models.replays import Forward, Replays
from chatglm_backend.models.rows import Feed, Rows, Span, rows_of

Planner = Callable[[Sequence[int], KVCache], PositionPlan]
"""Decides a prompt's positions when its prefill starts; raises where the family cannot start there."""


class Decoder:
    """A :class:`~chatglm_backend.models.base.ChatModel` made of a family's parts. Not thread-safe."""

    def __init__(self, config: ModelConfig, network: Network, *, planner: Planner, kv_dtype: torch.dtype) -> None:
        self.config = config
        self.layers = network.layers
        self.ops = network.ops
        self._network = network
        self._planner = planner
        self._kv_dtype = kv_dtype
        self._recorded = Replays(network.ops, config.hidden_size)
        self.replays = True
        """Whether a step may be replayed from a recording, where the operations can; the results are the same."""

    @property
    def settled(self) -> bool:
        """See :class:`~chatglm_backend.models.base.ChatModel`."""
        return not self._recorded.recorded

    def new_cache(self, capacity: int, adapter: Adapter | None = None) -> KVCache:
        """An empty cache for at most ``capacity`` tokens of ``adapter``. Raises ValueError past the context limit."""
        if capacity > self.config.context_limit:
            raise ValueError(f"{capacity} tokens are more than the context of {self.config.context_limit}")
        return KVCache(
            num_layers=self.config.num_layers,
            kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            capacity=capacity,
            dtype=self._kv_dtype,
            adapter=adapter,
        )

    def prefill(self, ids: Sequence[int], cache: KVCache, *, max_rows: int = 128, logit_rows: int = 1) -> Prefill:
        """Start reading a prompt into ``cache`` from its length on; no work is done until ``advance``.

        ``logit_rows`` last rows go through the output layer. Raises ValueError for no ids, no room, or a
        cache that this family cannot continue; InvalidRequest for a ChatGLM-6B prompt without its control ids.
        """
        if not ids or max_rows < 1 or not 1 <= logit_rows <= len(ids):
            raise ValueError("a prefill needs ids, rows per unit, and between one and all rows for the output layer")
        plan = self._planner(ids, cache)
        cache.reserve(cache.length + len(ids))
        return prefill_of(self._network, ids, cache, plan, max_rows=max_rows, logit_rows=logit_rows)

    @torch.no_grad()
    def decode(self, feeds: Sequence[Feed]) -> Tensor:
        """One step of several sequences -> fp32 logits [all rows, vocab], rows of the feeds in order.

        Raises ValueError for an empty feed, a cache fed twice, without a prompt, or without room.
        """
        if not feeds or len({id(feed.cache) for feed in feeds}) != len(feeds) or not all(feed.ids for feed in feeds):
            raise ValueError("feed at least one id to each of several different caches")
        spans = [Span.of(feed) for feed in feeds]
        rows = rows_of([(span.cache, span.plan, span.start, span.end) for span in spans])
        hidden = self._network.embed([token for feed in feeds for token in feed.ids], rows.groups)
        places = [place for span in spans for place in span.places]
        forward = self._recorded if self.replays else _at_once
        logits = forward(hidden, rows, places, self._forward)
        # A kernel may reuse its result.
        logits = logits.clone()
        for span in spans:
            span.cache.length = span.end
        return logits

    def _forward(self, hidden: Tensor, rows: Rows, places: Sequence[Place]) -> Tensor:
        for index, layer in enumerate(self.layers):
            projected = layer.project(hidden, rows)
            # One row at a time, as when the ids are fed one by one: a product of several rows rounds differently,
            # which INT4 kernels amplify, and draft tokens must not change an answer.
            attended = self.ops.attend(index, projected.q, projected.k, projected.v, places)
            hidden = layer.finish(projected.residual, attended, rows)
        return self._network.logits(hidden, rows)


def _at_once(hidden: Tensor, rows: Rows, places: Sequence[Place], forward: Forward) -> Tensor:
    return forward(hidden, rows, places)
