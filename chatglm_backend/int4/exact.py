"""The reference product: dequantised weights, fp32 arithmetic. For checks; slow and plain."""

from __future__ import annotations

import torch
from torch import Tensor

from chatglm_backend.int4.blocks import check_packed, dequantize
from chatglm_backend.int4.kernel import Product
from chatglm_backend.int4.packing import row_bytes

_CHUNK_WEIGHTS = 16 * 1024 * 1024
"""Weights expanded at once (64 MiB), so that a full-size output layer fits everywhere."""


class ExactKernel:
    """Multiplies with the exact INT4 values; nothing is rounded but by fp32 itself."""

    name = "exact"

    def prepare(self, packed: Tensor, out: int, in_: int) -> Product:
        """See :class:`~chatglm_backend.int4.kernel.Kernel`."""
        check_packed(packed, out, in_)
        rows = packed.reshape(out, row_bytes(in_))
        step = max(1, _CHUNK_WEIGHTS // in_)

        def product(x: Tensor) -> Tensor:
            result = torch.empty(x.shape[0], out, dtype=torch.float32)
            for low in range(0, out, step):
                high = min(low + step, out)
                torch.matmul(x, dequantize(rows[low:high], high - low, in_).T, out=result[:, low:high])
            return result

        return product
