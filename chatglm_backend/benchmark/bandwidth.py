"""How fast this machine reads memory, right now: the ceiling of decode.

A decode step reads every weight once, so tokens per second cannot exceed read bandwidth
over the bytes of the weights. Knows torch and nothing of models.
"""

from __future__ import annotations

import time

import torch


def read_bandwidth_gb_s(*, threads: int, size_bytes: int = 1 << 30, rounds: int = 5) -> float:
    """Return GB/s (10⁹ bytes), the best of ``rounds`` sums over a buffer far larger than any cache.

    The sum runs over ``threads`` threads of torch, on int64 words, so that adding costs less than reading.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        buffer = torch.ones(size_bytes // 8, dtype=torch.int64)
        best = 0.0
        for _ in range(rounds):
            start = time.perf_counter()
            buffer.sum()
            best = max(best, buffer.numel() * 8 / (time.perf_counter() - start) / 1e9)
        return best
    finally:
        torch.set_num_threads(before)
