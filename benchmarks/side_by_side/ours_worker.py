"""Runs our engine on orders from standard input, as :mod:`llama_cpp_worker` does for llama.cpp.

Run with the project's interpreter: ``python -m benchmarks.side_by_side.ours_worker FAMILY THREADS KERNEL``.
"""

from __future__ import annotations

import json
import sys

from chatglm_backend.benchmark.runner import run_prompts
from chatglm_backend.benchmark.setup import open_synthetic
from chatglm_backend.core import CancelToken, monotonic_clock
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings


def main(family: str, threads: int, kernel: str) -> None:
    """Build the full-size model in memory, say so, and serve orders until standard input ends."""
    bench = open_synthetic(family, threads=threads, kernel=kernel, cache=kernel_cache(Settings()))
    engine = bench.engine(draft_tokens=0)
    print(json.dumps({"ready": True, "kernel": bench.machine.kernel}), flush=True)
    for number, line in enumerate(sys.stdin):
        order = json.loads(line)
        prompt = f"{order['prompt_tokens']}/{number}"
        found = run_prompts(engine, [prompt], order["new_tokens"], CancelToken(), monotonic_clock)
        print(json.dumps({"ttft_s": found.ttft_s, "decode_tok_s": found.decode_tok_s}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
