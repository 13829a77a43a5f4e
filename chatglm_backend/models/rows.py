"""The rows of a step: which tokens are fed to which sequences, where they stand, and whose fine-tune they are.

Knows caches and plans; no weights, no arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.ops import Place
from chatglm_backend.models.positions import PositionPlan


@dataclass(frozen=True, slots=True)
class Feed:
    """Ids to append to one sequence; several are causal among themselves."""

    ids: tuple[int, ...]
    cache: KVCache


RowGroup = tuple[Adapter, slice]
"""A fine-tune and its rows, which lie side by side."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Position and block position ids of the rows at hand, int64 [rows] each; rows of the base are in no group."""

    positions: Tensor
    blocks: Tensor
    groups: tuple[RowGroup, ...] = ()


@dataclass(frozen=True, slots=True)
class Span:
    """One feed's place in its sequence: tokens ``start`` to ``end``."""

    cache: KVCache
    plan: PositionPlan
    start: int
    end: int

    @staticmethod
    def of(feed: Feed) -> Span:
        """Make room for the feed. Raises ValueError for a cache without a prompt, or without room."""
        plan, start = feed.cache.plan, feed.cache.length
        if plan is None:
            raise ValueError("a sequence starts with a prefill")
        end = start + len(feed.ids)
        feed.cache.reserve(end)
        return Span(feed.cache, plan, start, end)

    @property
    def places(self) -> list[Place]:
        """Of each row."""
        cache, layers = self.cache, self.cache.layers()
        return [
            Place(layers, cache.identity, cache.lead + index, cache.lead + self.plan.visible(index))
            for index in range(self.start, self.end)
        ]


def rows_of(spans: Sequence[tuple[KVCache, PositionPlan, int, int]]) -> Rows:
    """The rows of tokens ``start`` to ``end`` of each sequence. A group that has all of them is so, however many."""
    places = [(plan, index) for _, plan, start, end in spans for index in range(start, end)]
    return Rows(
        positions=torch.tensor([plan.position(index) for plan, index in places], dtype=torch.int64),
        blocks=torch.tensor([plan.block(index) for plan, index in places], dtype=torch.int64),
        groups=row_groups([(cache, end - start) for cache, _, start, end in spans]),
    )


def row_groups(counts: Sequence[tuple[KVCache, int]]) -> tuple[RowGroup, ...]:
    """Who computes which of the rows, so many for each cache; neighbours with the same fine-tune are one group."""
    groups: list[RowGroup] = []
    row, total = 0, sum(rows for _, rows in counts)
    for adapter, some in groupby(counts, key=lambda count: count[0].adapter):
        first, row = row, row + sum(rows for _, rows in some)
        if adapter is not None and adapter.computes:
            groups.append((adapter, slice(first, row) if row - first < total else slice(None)))
    return tuple(groups)
