"""The keys and values of one sequence, for all layers.

Memory grows in blocks of tokens up to the capacity, so that a short chat does not take the
whole context's memory, whatever the system's page size. Knows no positions, ids or masks.
An adapter's prefix rows stand in front of the tokens: they take memory, and are no tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.int8_rows import row_width
from chatglm_backend.models.positions import PositionPlan

GROWTH_BLOCK = 256
"""Tokens by which a cache's memory grows at least."""


class KVCache:
    """Keys and values [kv_heads, tokens, width] of every layer, in one stated dtype; see :mod:`.int8_rows`.

    ``identity`` is another object whenever the memory has moved.
    ``length`` counts the tokens that are complete in all layers. What lies behind it may hold
    the leftovers of an abandoned prefill and is overwritten. Not thread-safe.
    ``adapter`` is the fine-tune whose sequence this is; ``lead`` counts its prefix rows.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        dtype: torch.dtype,
        adapter: Adapter | None = None,
    ) -> None:
        """Take no memory yet. ``capacity`` is the most tokens this sequence may ever hold, prefix rows not counted."""
        if capacity < 1:
            raise ValueError(f"a cache needs room for at least one token, not {capacity}")
        self._kv_heads = kv_heads
        self._width = row_width(head_dim, dtype)
        self.dtype = dtype
        self._reserved = 0
        self._keys = [torch.empty(kv_heads, 0, self._width, dtype=dtype) for _ in range(num_layers)]
        self._values = [torch.empty(kv_heads, 0, self._width, dtype=dtype) for _ in range(num_layers)]
        self.adapter = adapter
        self.lead = adapter.prefix.rows if adapter is not None and adapter.prefix is not None else 0
        self.capacity = capacity
        self.identity = object()
        self.length = 0
        self.plan: PositionPlan | None = None

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one more token takes, all layers together."""
        return 2 * len(self._keys) * self._kv_heads * self._width * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes reserved now."""
        return self._reserved * self.bytes_per_token

    def reserve(self, tokens: int) -> None:
        """Make room for ``tokens`` in all; what is there stays. Raises ValueError past the capacity."""
        if tokens > self.capacity:
            raise ValueError(f"{tokens} tokens do not fit a cache for {self.capacity}")
        if self.lead + tokens <= self._reserved:
            return
        # A quarter more than asked for keeps the copying of long answers linear.
        wanted = max(tokens, self.length + self.length // 4)
        blocks = -(-wanted // GROWTH_BLOCK)
        self._resize(self.lead + min(blocks * GROWTH_BLOCK, self.capacity))

    def room(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Where keys and values of tokens ``start`` to ``end`` belong, [kv_heads, rows, width]; it must be reserved."""
        here = slice(self.lead + start, self.lead + end)
        return self._keys[layer][:, here], self._values[layer][:, here]

    def rows(self, start: int, end: int) -> Tensor:
        """A copy of keys and values of tokens ``start`` to ``end``, [2 * layers, kv_heads, tokens, width]."""
        return torch.stack([part for layer in range(len(self._keys)) for part in self.room(layer, start, end)])

    def extend(self, rows: Tensor) -> None:
        """Take keys and values as :meth:`rows` gives them for the tokens that follow. Raises as :meth:`reserve`."""
        start, end = self.length, self.length + rows.shape[2]
        self.reserve(end)
        for layer in range(len(self._keys)):
            for mine_at, theirs_at in zip(self.room(layer, start, end), rows[2 * layer : 2 * layer + 2], strict=True):
                mine_at.copy_(theirs_at)
        self.length = end

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        """The whole reserved keys and values of every layer."""
        return list(zip(self._keys, self._values, strict=True))

    def read(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        """Views of the prefix rows and tokens 0 to ``end``, keys and values [kv_heads, lead + end, width] each."""
        return self._keys[layer][:, : self.lead + end], self._values[layer][:, : self.lead + end]

    def truncate(self, length: int) -> None:
        """Forget the tokens from ``length`` on; 0 empties the cache. Keeps the memory.

        Raises ValueError where the tokens left would no longer mean the same (inside ChatGLM-6B's prompt).
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} tokens to {length}")
        if length and self.plan is not None and length < self.plan.context:
            raise ValueError(f"the first {self.plan.context} tokens of this sequence depend on one another")
        self.length = length
        if length == 0:
            self.plan = None

    def copy_prefix_from(self, other: KVCache, length: int) -> None:
        """Take the first ``length`` tokens of ``other`` in place of everything here.

        Raises ValueError where the shapes differ, ``other`` is shorter, or the family's prompt is cut.
        """
        mine, theirs = (
            (len(one._keys), one._kv_heads, one._width, one.dtype, one.adapter and one.adapter.identity)
            for one in (self, other)
        )
        if mine != theirs:
            raise ValueError("the caches belong to different models or fine-tunes")
        if not 0 <= length <= other.length:
            raise ValueError(f"the other cache holds {other.length} tokens, not {length}")
        if length and other.plan is not None and length < other.plan.context:
            raise ValueError(f"the first {other.plan.context} tokens of that sequence depend on one another")
        self.length = 0
        self.reserve(length)
        for layer in range(len(self._keys)):
            for mine_at, theirs_at in zip(self.room(layer, 0, length), other.room(layer, 0, length), strict=True):
                mine_at.copy_(theirs_at)
        self.length = length
        self.plan = other.plan if length else None

    def _resize(self, rows: int) -> None:
        # First, as memory may run out half way; then some tensors have moved.
        self.identity = object()
        # One tensor at a time: the peak is one layer's copy, not the cache's.
        prefix = self.adapter.prefix if self.adapter is not None else None
        kept = self.lead + self.length
        for tensors, fronts in ((self._keys, prefix and prefix.keys), (self._values, prefix and prefix.values)):
            for layer, old in enumerate(tensors):
                new = torch.empty(self._kv_heads, rows, self._width, dtype=self.dtype)
                if self._reserved:
                    new[:, :kept].copy_(old[:, :kept])
                elif fronts:
                    new[:, : self.lead].copy_(fronts[layer])
                tensors[layer] = new
        self._reserved = rows
