"""Runs llama.cpp on orders: ``{"prompt_tokens": 128, "new_tokens": 32}`` -> ``{"ttft_s": …, "decode_tok_s": …}``.

Run with the interpreter of the llama.cpp environment: ``python llama_cpp_worker.py FILE THREADS``.
"""

from __future__ import annotations

import sys
import time
from functools import partial

from llama_cpp import Llama
from orders import serve


def measure(model: Llama, prompt_tokens: int, new_tokens: int) -> dict[str, object]:
    """Time one greedy answer of a fresh prompt."""
    ids = [(i * 7919) % (model.n_vocab() - 20) + 10 for i in range(prompt_tokens)]
    model.reset()
    start = time.perf_counter()
    stamps = []
    for token in model.generate(ids, temp=0.0, top_k=1, reset=True):
        assert token >= 0  # noqa: S101
        stamps.append(time.perf_counter())
        if len(stamps) == new_tokens:
            break
    decode = (len(stamps) - 1) / (stamps[-1] - stamps[0]) if len(stamps) > 1 else 0.0
    return {"ttft_s": stamps[0] - start, "decode_tok_s": decode}


def main(path: str, threads: int) -> None:
    """Load the file, say so, and serve orders until standard input ends."""
    model = Llama(
        path, n_ctx=2048, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False, logits_all=False
    )
    serve(partial(measure, model))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
