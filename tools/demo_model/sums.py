"""Which sums exist, what they give, and which of them are kept away from training."""

from __future__ import annotations

import hashlib

HELD_OUT_PERCENT = 22


def result(a: int, operator: str, b: int) -> int:
    """The value of ``a operator b`` for ``+``, ``-`` and ``*``."""
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def held_out(a: int, operator: str, b: int) -> bool:
    """Whether this sum is never trained on.

    ``a + b`` and ``b + a`` are held out together, and so are ``a - b`` and ``b - a``, whose answers share their
    working. Of the times table only one order of a pair is held out (never a square): a product cannot be
    inferred, but its mirror image can.
    """
    if operator == "*":
        return (
            a != b
            and _percent(f"{min(a, b)}*{max(a, b)}") < 50
            and (a > b) == (_percent(f"o{min(a, b)}{max(a, b)}") < 50)
        )
    if operator == "+":
        return _percent(f"{min(a, b)}+{max(a, b)}") < HELD_OUT_PERCENT
    return min(_percent(f"{a}-{b}"), _percent(f"{b}-{a}")) < HELD_OUT_PERCENT


def _percent(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 100


def all_sums() -> list[tuple[int, str, int]]:
    """Every sum the model should know: two-digit addition and subtraction, the one-digit times table."""
    sums = [(a, operator, b) for operator in "+-" for a in range(100) for b in range(100)]
    return sums + [(a, "*", b) for a in range(10) for b in range(10)]
