"""The low-rank side path of one product: ``y += scale * B(A x)``, as LoRA adapters have it.

Knows shapes and number formats; no files, no modules' names, no kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UP_COLUMNS = 16
"""Output columns that lie together in :attr:`LowRank.up`."""
RANK_STEP = 4
"""Ranks are filled up with zeros to a multiple of this."""
_HALF_LIMIT = float(torch.finfo(torch.float16).max)


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """``down`` is A [rank, in]; ``up`` is B as [out / 16, rank, 16], zeros behind the last column; ``out`` columns.

    In the tensors the rank is filled up with zeros to a multiple of :data:`RANK_STEP`; ``rank`` is the adapter's.
    They are fp16, or fp32 where the checks want exact numbers or the numbers are too large for fp16. ``scale`` is
    alpha / rank, or alpha / sqrt(rank), and stays apart, so that small factors are not rounded away.
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

    def plain_up(self) -> Tensor:
        """B in fp32, [out, rank] filled up as ``down`` is."""
        return self.up.float().transpose(1, 2).flatten(0, 1)[: self.out]


def low_rank(a: Tensor, b: Tensor, scale: float, *, dtype: torch.dtype = torch.float16) -> LowRank:
    """From ``a`` [rank, in] and ``b`` [out, rank], kept in ``dtype`` where their numbers fit it."""
    if dtype is torch.float16 and any(float(x.abs().max()) > _HALF_LIMIT for x in (a, b) if x.numel()):
        dtype = torch.float32
    (out, rank), steps = b.shape, -(-b.shape[1] // RANK_STEP)
    padded = torch.zeros(-(-out // UP_COLUMNS) * UP_COLUMNS, steps * RANK_STEP, dtype=dtype)
    padded[:out, :rank] = b.to(dtype)
    up = padded.view(-1, UP_COLUMNS, steps * RANK_STEP).transpose(1, 2).contiguous()
    # Its own memory, as the file that ``a`` may be mapped from can be written again while this is in use.
    down = torch.zeros(steps * RANK_STEP, a.shape[1], dtype=dtype)
    down[:rank] = a.to(dtype)
    return LowRank(down, up, out, rank, scale)
