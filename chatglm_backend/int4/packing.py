"""How many bytes bigdl-llm's ``sym_int4`` takes. Loads nothing."""

from __future__ import annotations

from chatglm_backend.errors import WrongShape

BLOCK_WEIGHTS = 64
BLOCK_BYTES = 34


def row_bytes(in_: int) -> int:
    """Bytes of one packed row of ``in_`` weights. Raises WrongShape where it is not whole blocks."""
    if in_ <= 0 or in_ % BLOCK_WEIGHTS:
        raise WrongShape(
            tensor="A linear layer",
            path="this checkpoint",
            found=f"[…, {in_}]",
            expected=f"a multiple of {BLOCK_WEIGHTS} columns, which INT4 needs",
        )
    return in_ // BLOCK_WEIGHTS * BLOCK_BYTES
