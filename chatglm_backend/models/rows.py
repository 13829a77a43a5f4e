"""The rows of a step: which tokens are fed to which sequences, and where they stand.

Knows caches and plans; no weights, no arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.positions import PositionPlan


@dataclass(frozen=True, slots=True)
class Feed:
    """Ids to append to one sequence; several are causal among themselves."""

    ids: tuple[int, ...]
    cache: KVCache


@dataclass(frozen=True, slots=True)
class Rows:
    """Position and block position ids of the rows at hand, int64 [rows] each."""

    positions: Tensor
    blocks: Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """One feed's place in its sequence: tokens ``start`` to ``end``."""

    cache: KVCache
    plan: PositionPlan
    start: int
    end: int
    visible: tuple[int, ...]

    @staticmethod
    def of(feed: Feed) -> Span:
        """Make room for the feed. Raises ValueError for a cache without a prompt, or without room."""
        plan, start = feed.cache.plan, feed.cache.length
        if plan is None:
            raise ValueError("a sequence starts with a prefill")
        end = start + len(feed.ids)
        feed.cache.reserve(end)
        return Span(feed.cache, plan, start, end, tuple(plan.visible(index) for index in range(start, end)))


def rows_of(spans: Sequence[tuple[PositionPlan, int, int]]) -> Rows:
    """The rows of tokens ``start`` to ``end`` of each plan's sequence."""
    places = [(plan, index) for plan, start, end in spans for index in range(start, end)]
    return Rows(
        positions=torch.tensor([plan.position(index) for plan, index in places], dtype=torch.int64),
        blocks=torch.tensor([plan.block(index) for plan, index in places], dtype=torch.int64),
    )
