"""The walk through the layers that both families share: prefill in units, decode in batches.

Knows the order of work and the caches; a family's :class:`Layer` knows the arithmetic, and its
planner where tokens stand.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.ops import Ops
from chatglm_backend.models.positions import PositionPlan
from chatglm_backend.models.rows import Feed, Rows, Span, rows_of
from chatglm_backend.models.single import SingleRow
from chatglm_backend.models.weights import Embedding, Linear

__all__ = ["Decoder", "Feed", "Layer", "Planner", "Prefill", "Projected", "Rows"]


@dataclass(frozen=True, slots=True)
class Projected:
    """What a layer makes of its input before attention, fp32.

    ``residual`` [rows, hidden] is what the attention's result is added to; ``q`` is
    [rows, heads, head_dim], ``k`` and ``v`` [rows, kv_heads, head_dim], all rotated already.
    """

    residual: Tensor
    q: Tensor
    k: Tensor
    v: Tensor


class Layer(Protocol):
    """One block of a family, in two halves around attention."""

    def project(self, hidden: Tensor, rows: Rows) -> Projected:
        """``hidden`` [rows, hidden] fp32 is left as it is."""
        ...

    def finish(self, residual: Tensor, attended: Tensor) -> Tensor:
        """Output projection, residuals and MLP; [rows, hidden] and [rows, heads * head_dim] -> [rows, hidden]."""
        ...


Planner = Callable[[Sequence[int], KVCache], PositionPlan]
"""Decides a prompt's positions when its prefill starts; raises where the family cannot start there."""


class Decoder:
    """A :class:`~chatglm_backend.models.base.ChatModel` made of a family's parts. Not thread-safe."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        embedding: Embedding,
        layers: Sequence[Layer],
        final_norm: Callable[[Tensor], Tensor],
        output: Linear,
        planner: Planner,
        ops: Ops,
        kv_dtype: torch.dtype,
    ) -> None:
        self.config = config
        self.ops = ops
        self.layers = tuple(layers)
        self._embedding = embedding
        self._final_norm = final_norm
        self._output = output
        self._planner = planner
        self._kv_dtype = kv_dtype
        self._single = SingleRow(ops, config.hidden_size)
        self.replays = True
        """Whether a single row may be repeated from a recording, where the operations can; the results are the same."""

    def new_cache(self, capacity: int) -> KVCache:
        """An empty cache for at most ``capacity`` tokens. Raises ValueError past the context limit."""
        if capacity > self.config.context_limit:
            raise ValueError(f"{capacity} tokens are more than the context of {self.config.context_limit}")
        return KVCache(
            num_layers=self.config.num_layers,
            kv_heads=self.config.num_kv_heads,
            head_dim=self.config.head_dim,
            capacity=capacity,
            dtype=self._kv_dtype,
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
        return Prefill(self, tuple(ids), cache, plan, max_rows=max_rows, logit_rows=logit_rows)

    @torch.no_grad()
    def decode(self, feeds: Sequence[Feed]) -> Tensor:
        """One step of several sequences -> fp32 logits [all rows, vocab], rows of the feeds in order.

        Raises ValueError for an empty feed, a cache fed twice, without a prompt, or without room.
        """
        if not feeds or len({id(feed.cache) for feed in feeds}) != len(feeds) or not all(feed.ids for feed in feeds):
            raise ValueError("feed at least one id to each of several different caches")
        spans = [Span.of(feed) for feed in feeds]
        hidden = self.embed([token for feed in feeds for token in feed.ids])
        if len(hidden) == 1 and self.replays and self._single.possible:
            logits = self._single(hidden, spans[0], self._walk)
        else:
            logits = self._walk(hidden, rows_of([(span.plan, span.start, span.end) for span in spans]), spans)
        # A kernel may reuse its result.
        logits = logits.clone()
        for span in spans:
            span.cache.length = span.end
        return logits

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token vectors, fp32 [rows, hidden]."""
        return self._embedding(torch.tensor(list(ids), dtype=torch.int64))

    def logits(self, hidden: Tensor) -> Tensor:
        """The final norm and the output layer; valid until the next call."""
        return self._output(self._final_norm(hidden))

    def _walk(self, hidden: Tensor, rows: Rows, spans: Sequence[Span]) -> Tensor:
        for index, layer in enumerate(self.layers):
            projected = layer.project(hidden, rows)
            attended = self._attend_each(index, projected, spans)
            hidden = layer.finish(projected.residual, attended)
        return self.logits(hidden)

    def _attend_each(self, index: int, projected: Projected, spans: Sequence[Span]) -> Tensor:
        # One row at a time, as when the ids are fed one by one: a product of several rows rounds differently,
        # which INT4 kernels amplify, and guessed tokens must not change an answer.
        results = []
        row = 0
        for span in spans:
            here = slice(row, row + span.end - span.start)
            self.ops.store(projected.k[here], projected.v[here], *span.cache.room(index, span.start, span.end))
            for offset, visible in enumerate(span.visible):
                keys, values = span.cache.read(index, span.start + offset + 1)
                results.append(self.ops.attention(projected.q[row : row + 1], keys, values, (visible,)))
                row += 1
        return results[0] if len(results) == 1 else torch.cat(results)


class Prefill:
    """A prompt on its way into a cache, one unit of work at a time.

    A unit is at most one layer × ``max_rows`` rows. The cache's length changes only when the last unit is done, so a
    prefill can simply be dropped; the cache is then as before, and all memory is free at once.
    """

    def __init__(
        self,
        model: Decoder,
        ids: tuple[int, ...],
        cache: KVCache,
        plan: PositionPlan,
        *,
        max_rows: int,
        logit_rows: int,
    ) -> None:
        self.total = len(ids)
        self._walk = _Walk(model, ids, cache, plan, max_rows=max_rows, logit_rows=logit_rows)
        self._work = self._walk.run()
        self._units_done = 0

    @property
    def done(self) -> int:
        """Prompt tokens' worth of work done, growing to ``total``."""
        walk = self._walk
        return self.total if walk.logits is not None else self._units_done * self.total // (walk.units + 1)

    @property
    def logits(self) -> Tensor:
        """fp32 [logit_rows, vocab] of the last rows. Raises ValueError before the end."""
        if self._walk.logits is None:
            raise ValueError("the prompt is not read to its end")
        return self._walk.logits

    @torch.no_grad()
    def advance(self) -> bool:
        """Do one unit; True when the prompt is read to its end."""
        if self._walk.logits is None:
            next(self._work)
            self._units_done += 1
        if self._walk.logits is None:
            return False
        self._work.close()
        return True


class _Walk:
    """The work of a prefill. Where rows see later rows (inside ChatGLM-6B's prompt), a layer's keys and values of all
    rows come first, slice by slice, and then the rest of the layer: two units a slice.

    It does not know who drives it: a circle of references would keep the cache until Python looks for such circles.
    """

    def __init__(
        self,
        model: Decoder,
        ids: tuple[int, ...],
        cache: KVCache,
        plan: PositionPlan,
        *,
        max_rows: int,
        logit_rows: int,
    ) -> None:
        self.logits: Tensor | None = None
        self._total = len(ids)
        self._model = model
        self._ids = ids
        self._cache = cache
        self._plan = plan
        self._start = cache.length
        self._logit_rows = logit_rows
        self._slices = [(low, min(low + max_rows, self._total)) for low in range(0, self._total, max_rows)]
        self._visible = [plan.visible(self._start + row) for row in range(self._total)]
        self._looks_ahead = any(max(self._visible[low:high]) > self._start + high for low, high in self._slices)
        self.units = len(model.layers) * len(self._slices) * (2 if self._looks_ahead else 1)

    def run(self) -> Generator[None, None, None]:
        """One unit at each step; ``logits`` are there after the last."""
        rows = [rows_of([(self._plan, self._start + low, self._start + high)]) for low, high in self._slices]
        hidden = self._model.embed(self._ids)
        last = len(self._model.layers) - 1
        for index, layer in enumerate(self._model.layers):
            # Behind the last layer only the rows for the output layer are of use.
            needed = self._total - self._logit_rows if index == last else 0
            walk = self._ahead if self._looks_ahead else self._along
            for step, _ in enumerate(walk(index, layer, hidden, rows, needed), start=1):
                if index == last and step == self.units // len(self._model.layers):
                    self.logits = self._model.logits(hidden[needed:]).clone()
                    self._cache.length = self._start + self._total
                    self._cache.plan = self._plan
                yield

    def _along(self, index: int, layer: Layer, hidden: Tensor, rows: Sequence[Rows], needed: int) -> Iterator[None]:
        for (low, high), here in zip(self._slices, rows, strict=True):
            projected = layer.project(hidden[low:high], here)
            self._store(index, low, high, projected)
            first = max(low, needed)
            if first < high:
                residual = projected.residual[first - low :]
                hidden[first:high] = self._rest(index, layer, residual, projected.q[first - low :], first, high)
            yield

    def _ahead(self, index: int, layer: Layer, hidden: Tensor, rows: Sequence[Rows], needed: int) -> Iterator[None]:
        config = self._model.config
        queries = torch.empty(self._total, config.num_heads, config.head_dim)
        for (low, high), here in zip(self._slices, rows, strict=True):
            projected = layer.project(hidden[low:high], here)
            self._store(index, low, high, projected)
            queries[low:high] = projected.q
            hidden[low:high] = projected.residual
            yield
        for low, high in self._slices:
            first = max(low, needed)
            if first < high:
                hidden[first:high] = self._rest(index, layer, hidden[first:high], queries[first:high], first, high)
            yield

    def _store(self, index: int, low: int, high: int, projected: Projected) -> None:
        room = self._cache.room(index, self._start + low, self._start + high)
        self._model.ops.store(projected.k, projected.v, *room)

    def _rest(self, index: int, layer: Layer, residual: Tensor, q: Tensor, first: int, high: int) -> Tensor:
        visible = self._visible[first:high]
        keys, values = self._cache.read(index, max(visible))
        return layer.finish(residual, self._model.ops.attention(q, keys, values, visible))
