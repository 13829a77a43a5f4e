"""bigdl-llm's ``sym_int4`` bytes: 64 weights as one fp16 scale and 32 bytes of nibbles.

Byte j of a block holds weight j in its low nibble and weight j + 32 in its high nibble;
a weight is (nibble - 8) * scale. Blocks run along the input dimension. Torch only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatglm_backend.errors import WrongShape
from chatglm_backend.int4.packing import BLOCK_BYTES, BLOCK_WEIGHTS, row_bytes

_SCALE_BYTES = 2


def check_packed(packed: Tensor, out: int, in_: int) -> None:
    """Raise WrongShape unless ``packed`` is contiguous uint8 bytes of ``out`` × ``in_`` weights."""
    expected = out * row_bytes(in_)
    if packed.dtype is not torch.uint8 or packed.numel() != expected or not packed.is_contiguous():
        raise WrongShape(
            tensor="A packed layer",
            path="this checkpoint",
            found=f"{tuple(packed.shape)} {packed.dtype}",
            expected=f"{expected} bytes in a row",
        )


def dequantize(packed: Tensor, out: int, in_: int) -> Tensor:
    """uint8 [out, in // 64 * 34] -> fp32 [out, in], the exact values. Raises WrongShape."""
    check_packed(packed, out, in_)
    blocks = packed.reshape(out, in_ // BLOCK_WEIGHTS, BLOCK_BYTES)
    scales = blocks[..., :_SCALE_BYTES].contiguous().view(torch.float16).float()
    nibbles = blocks[..., _SCALE_BYTES:]
    weights = torch.empty(out, in_ // BLOCK_WEIGHTS, BLOCK_WEIGHTS, dtype=torch.float32)
    half = BLOCK_WEIGHTS // 2
    weights[..., :half] = nibbles & 0x0F
    weights[..., half:] = nibbles >> 4
    return weights.sub_(8).mul_(scales).reshape(out, in_)
