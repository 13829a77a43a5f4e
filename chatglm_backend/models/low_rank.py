"""The low-rank side path of one product: ``y += scale * B(A x)``, as LoRA adapters have it.

Knows shapes and number formats; no files, no modules' names, no kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

UP_COLUMNS = 16
"""Output columns that lie together in :attr:`LowRank.up`."""
_HALF_LIMIT = float(torch.finfo(torch.float16).max)


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """``down`` is A [rank, in]; ``up`` is B as [out / 16, rank, 16], zeros behind the last column; ``out`` columns.

    Both are fp16, or fp32 where the checks want exact numbers or the numbers are too large for fp16. ``scale`` is
    alpha / rank, or alpha / sqrt(rank), and stays apart, so that small factors are not rounded away.
    """

    down: Tensor
    up: Tensor
    out: int
    scale: float

    @property
    def rank(self) -> int:
        """Numbers between the factors."""
        return self.down.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of both factors."""
        return self.down.nbytes + self.up.nbytes

    def plain_up(self) -> Tensor:
        """B as it was, fp32 [out, rank]."""
        return self.up.float().transpose(1, 2).reshape(-1, self.rank)[: self.out]


def low_rank(a: Tensor, b: Tensor, scale: float, *, dtype: torch.dtype = torch.float16) -> LowRank:
    """From ``a`` [rank, in] and ``b`` [out, rank], kept in ``dtype`` where their numbers fit it."""
    if dtype is torch.float16 and any(float(x.abs().max()) > _HALF_LIMIT for x in (a, b) if x.numel()):
        dtype = torch.float32
    (out, rank), blocks = b.shape, -(-b.shape[0] // UP_COLUMNS)
    padded = torch.zeros(blocks * UP_COLUMNS, rank, dtype=dtype)
    padded[:out] = b.to(dtype)
    up = padded.view(blocks, UP_COLUMNS, rank).transpose(1, 2).contiguous()
    return LowRank(a.to(dtype).contiguous(), up, out, scale)
