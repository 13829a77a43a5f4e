"""THUDM's 4-bit and 8-bit checkpoints: one scale per row.

Four bits are re-encoded into bigdl's blocks without changing a weight; eight are rounded to four like full precision.
An 8-bit weight is a signed byte. A 4-bit byte holds the even input column in the high nibble and the odd one in the
low nibble, both signed 4-bit. A ``sym_int4`` block is an fp16 scale and 32 bytes: byte j holds columns j (low nibble)
and j + 32 (high nibble) of the block's 64, each plus 8. A row's scale serves each of its blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from chatglm_backend.int4.packing import BLOCK_BYTES
from chatglm_backend.int4.packing import BLOCK_WEIGHTS as BLOCK


def unpack_rows(packed: Tensor) -> Tensor:
    """THUDM's int8 [rows, in/2] -> the weights' integers, int8 [rows, in] in −8..7."""
    raw = packed.view(torch.int8)
    high = raw >> 4
    low = (raw << 4) >> 4
    return torch.stack((high, low), dim=-1).view(packed.shape[0], -1)


def reencode_rows(packed: Tensor, scales: Tensor) -> Tensor:
    """THUDM's int8 [rows, in/2] and fp16 scales [rows] -> ``sym_int4`` uint8 [rows, in // 64 * 34]."""
    rows = packed.shape[0]
    nibbles = (unpack_rows(packed) + 8).view(torch.uint8).view(rows, -1, 2, BLOCK // 2)
    blocks = nibbles.shape[1]
    out = torch.empty(rows, blocks, BLOCK_BYTES, dtype=torch.uint8)
    out[:, :, :2] = scales.to(torch.float16).contiguous().view(torch.uint8).view(rows, 1, 2)
    out[:, :, 2:] = nibbles[:, :, 0] | (nibbles[:, :, 1] << 4)
    return out.view(rows, blocks * BLOCK_BYTES)


def dequantize_rows(stored: Tensor, scales: Tensor, *, bits: int = 4) -> Tensor:
    """THUDM's int8 [rows, in · bits/8] and scales [rows] -> fp32 [rows, in], the exact values."""
    whole = stored.view(torch.int8) if bits == 8 else unpack_rows(stored)
    return whole.float() * scales.float().view(-1, 1)
