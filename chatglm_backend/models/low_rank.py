"""The low-rank side paths of one product: ``y += scale * B(A x)``, as LoRA adapters have them.

Knows shapes and number formats; no files, no modules' names, no kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from chatglm_backend.models.weights import Linear

UP_COLUMNS = 16
"""Output columns that lie together in :attr:`LowRank.up`."""
RANK_STEP = 4
"""Ranks are filled up with zeros to a multiple of this."""
_HALF_LIMIT = float(torch.finfo(torch.float16).max)


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """``down`` is A [rank, in]; ``up`` is B as [out / 16, rank, 16], zeros behind the last column; ``out`` columns.

    In the tensors the rank is filled up with zeros to a multiple of :data:`RANK_STEP`; ``rank`` is the adapter's.
    They are fp16, or fp32 where the checks want exact numbers. ``scale`` is alpha / rank, or alpha / sqrt(rank), times
    the power of two by which numbers too large for fp16 are divided; apart, small factors are not rounded away.
    """

    down: Tensor
    up: Tensor
    out: int
    rank: int
    scale: float

    @property
    def nbytes(self) -> int:
        """Bytes of both factors."""
        return self.down.nbytes + self.up.nbytes

    def add_to(self, result: Tensor, x: Tensor) -> None:
        """Add the side path of ``x`` [rows, in] to ``result`` [rows, out], both fp32, in place."""
        between = functional.linear(x, self.down.float()).mul_(self.scale)
        result.addmm_(between, self.plain_up().T)

    def plain_up(self) -> Tensor:
        """B in fp32, [out, rank] filled up as ``down`` is."""
        return self.up.float().transpose(1, 2).flatten(0, 1)[: self.out]


Side = tuple[slice, LowRank]
"""Rows, and the side path that they take."""


@runtime_checkable
class SideLinear(Protocol):
    """A product that works out side paths with fp16 factors in the same pass, cheaper than afterwards."""

    def with_sides(self, x: Tensor, sides: Sequence[Side]) -> Tensor:
        """As :class:`~chatglm_backend.models.weights.Linear` has it, with the side paths added."""


def multiply(linear: Linear, x: Tensor, sides: Sequence[Side]) -> Tensor:
    """``x`` [rows, in] through ``linear`` with the side paths of some rows."""
    if sides and isinstance(linear, SideLinear):
        return linear.with_sides(x, sides)
    result = linear(x)
    for some, factors in sides:
        factors.add_to(result[some], x[some])
    return result


def low_rank(a: Tensor, b: Tensor, scale: float, *, dtype: torch.dtype = torch.float16) -> LowRank:
    """From ``a`` [rank, in] and ``b`` [out, rank], kept in ``dtype``."""
    if dtype is torch.float16:
        a, scale = _fitting(a, scale)
        b, scale = _fitting(b, scale)
    (out, rank), steps = b.shape, -(-b.shape[1] // RANK_STEP)
    padded = torch.zeros(-(-out // UP_COLUMNS) * UP_COLUMNS, steps * RANK_STEP, dtype=dtype)
    padded[:out, :rank] = b.to(dtype)
    up = padded.view(-1, UP_COLUMNS, steps * RANK_STEP).transpose(1, 2).contiguous()
    # Its own memory, as the file that ``a`` may be mapped from can be written again while this is in use.
    down = torch.zeros(steps * RANK_STEP, a.shape[1], dtype=dtype)
    down[:rank] = a.to(dtype)
    return LowRank(down, up, out, rank, scale)


def _fitting(x: Tensor, scale: float) -> tuple[Tensor, float]:
    """Numbers that fit fp16, and the scale that makes up for it."""
    excess = float(x.abs().max()) / _HALF_LIMIT if x.numel() else 0.0
    power = 2.0 ** ceil(log2(excess)) if excess > 1 else 1.0
    return x / power if power > 1 else x, scale * power
