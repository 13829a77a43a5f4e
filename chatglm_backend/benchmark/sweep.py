"""One sequence's speed at 1, 2, 4, … threads, each count with a kernel of its own.

Every point builds the model anew, because kernels choose and share out their work by thread count.
"""

from __future__ import annotations

from collections.abc import Callable

from chatglm_backend.benchmark.report import SweepPoint
from chatglm_backend.benchmark.runner import run_prompts
from chatglm_backend.benchmark.setup import Bench
from chatglm_backend.core import CancelToken, monotonic_clock


def thread_counts(most: int) -> tuple[int, ...]:
    """Powers of two below ``most``, and ``most``."""
    counts = [1]
    while counts[-1] * 2 < most:
        counts.append(counts[-1] * 2)
    return tuple(dict.fromkeys([*counts, most]))


def sweep_threads(
    open_bench: Callable[[int], Bench], most: int, *, prompt_tokens: int = 32, new_tokens: int = 16
) -> tuple[SweepPoint, ...]:
    """Measure every count of :func:`thread_counts`; ``open_bench`` gets the number of threads."""
    points = []
    for threads in thread_counts(most):
        engine = open_bench(threads).engine(draft_tokens=0)
        token = CancelToken()
        run_prompts(engine, [f"{prompt_tokens}/0"], 4, token, monotonic_clock)
        found = run_prompts(engine, [f"{prompt_tokens}/1"], new_tokens, token, monotonic_clock)
        points.append(SweepPoint(threads, found.decode_tok_s, found.prefill_tok_s))
    return tuple(points)
