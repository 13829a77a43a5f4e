"""Keys and values in 8 bits: a row of features as int8, and behind them its scale, an fp32 number in four of them.

One scale for each token and head: what is written never depends on what else is in the cache, and rows can be
copied, kept and read back like any others. Knows shapes; no caches, no models.
"""

from __future__ import annotations

import torch
from torch import Tensor

SCALE_BYTES = 4
_LARGEST = 127
_LEAST = 1e-37


def row_width(dim: int, dtype: torch.dtype) -> int:
    """Elements of a cache's row for ``dim`` features."""
    return dim + SCALE_BYTES if dtype is torch.int8 else dim


def to_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Features [..., dim] as a cache of ``dtype`` holds them; int8: [..., dim + 4].

    A row with a number that is not finite gets the scale NaN, and whatever sees it becomes NaN too.
    """
    if dtype is not torch.int8:
        return x.to(dtype)
    scale = x.float().abs().amax(-1, keepdim=True) / _LARGEST
    finite = scale.isfinite()
    inverse = torch.where(finite & (scale > _LEAST), 1 / scale, 0.0)
    whole = torch.where(finite, x.float(), 0.0).mul_(inverse).round_().to(torch.int8)
    return torch.cat([whole, torch.where(finite, scale, torch.nan).view(torch.int8)], -1)


def from_rows(rows: Tensor) -> Tensor:
    """The features [..., dim] of a cache's rows in fp32."""
    if rows.dtype is not torch.int8:
        return rows.float()
    scale = rows[..., -SCALE_BYTES:].contiguous().view(torch.float32)
    return rows[..., :-SCALE_BYTES] * scale
