"""What long contexts cost: a new token behind many others, and reading a long prompt. Two Markdown tables.

Random weights of full size. Tokens are made behind K/V of random numbers, in turn at every length: computing 32k
takes a quarter of an hour, and how long a step takes does not depend on the values. Prompts are really read, by
fewer layers, because only the ratio of the rates is wanted; the last column is all layers' time, by multiplication.

    python -m benchmarks.long_context --model chatglm3-6b-32k
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from chatglm_backend.benchmark.setup import Bench, open_synthetic
from chatglm_backend.checkpoint.known import MODELS
from chatglm_backend.hardware import plan_threads, read_machine
from chatglm_backend.models.int8_rows import to_rows
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.rows import Feed
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings
from chatglm_backend.units import digits, size


def open_bench(name: str, kv_dtype: torch.dtype, layers: int | None = None) -> Bench:
    """The model's shapes with random weights on the kernels that serve pages."""
    threads = plan_threads(read_machine()).threads
    return open_synthetic(name, threads=threads, cache=kernel_cache(Settings()), layers=layers, kv_dtype=kv_dtype)


def filled(bench: Bench, tokens: int) -> KVCache:
    """A cache that holds random keys and values of so many tokens, and has room for one more."""
    cache = bench.model.new_cache(tokens + 1)
    one = bench.model.prefill([5], cache)
    while not one.advance():
        pass
    config = bench.model.config
    shape = (2 * config.num_layers, config.num_kv_heads, 1024, config.head_dim)
    while (missing := tokens - cache.length) > 0:
        cache.extend(to_rows(torch.randn(shape)[:, :, :missing], cache.dtype))
    return cache


def decode(bench: Bench, lengths: list[int], rounds: int) -> None:
    """Print the times of one token behind each length, made in turn."""
    caches = {tokens: filled(bench, tokens) for tokens in lengths}
    seconds: dict[int, list[float]] = {tokens: [] for tokens in lengths}
    for turn in range(rounds + 2):
        for tokens, cache in caches.items():
            began = time.perf_counter()
            bench.model.decode([Feed((7,), cache)])
            if turn > 1:
                seconds[tokens].append(time.perf_counter() - began)
            cache.truncate(tokens)
    print(f"{bench.machine.model}, kernel {bench.machine.kernel}, {bench.machine.threads} threads\n")
    print("| tokens before | K/V of a visitor | ITL p50, ms | against the shortest |\n|---|---|---|---|")
    first = statistics.median(seconds[lengths[0]])
    for tokens, taken in seconds.items():
        middle = statistics.median(taken)
        print(f"| {tokens} | {size(caches[tokens].nbytes)} | {1000 * middle:.1f} | {middle / first:.2f} |")


def prefill(bench: Bench, lengths: list[int], all_layers: int, rounds: int) -> None:
    """Print the rates at which prompts of each length are read; the shortest is read around every other one."""
    layers = bench.model.config.num_layers
    rates: dict[int, list[float]] = {tokens: [] for tokens in lengths}
    read(bench, lengths[0])
    for _ in range(rounds):
        for tokens in lengths:
            if tokens != lengths[0]:
                rates[lengths[0]].append(read(bench, lengths[0]))
            rates[tokens].append(read(bench, tokens))
    share = all_layers / layers
    print(f"\n| prompt, {layers} layers | tok/s | against the shortest | all layers, s |\n|---|---|---|---|")
    first = statistics.median(rates[lengths[0]])
    for tokens, found in rates.items():
        rate = statistics.median(found)
        print(f"| {tokens} | {digits(rate)} | {rate / first:.2f} | {digits(tokens / rate * share)} |")


def read(bench: Bench, tokens: int) -> float:
    """Read a prompt of so many tokens; tokens per second."""
    cache = bench.model.new_cache(tokens)
    began = time.perf_counter()
    run = bench.model.prefill([5 + i % 1000 for i in range(tokens)], cache)
    while not run.advance():
        pass
    return tokens / (time.perf_counter() - began)


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="chatglm3-6b-32k")
    parser.add_argument("--lengths", type=int, nargs="*", default=[32, 512, 2048, 8192, 32767])
    parser.add_argument("--rounds", type=int, default=15, help="tokens made behind each length")
    parser.add_argument("--prompts", type=int, nargs="*", default=[512, 2048, 8192])
    parser.add_argument("--prompt-rounds", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4, help="layers that read prompts")
    parser.add_argument("--kv-dtype", choices=("float16", "int8"), default="float16")
    asked = parser.parse_args()
    kv_dtype = getattr(torch, asked.kv_dtype)
    if asked.lengths:
        decode(open_bench(asked.model, kv_dtype), asked.lengths, asked.rounds)
    if asked.prompts:
        all_layers = MODELS[asked.model].config.num_layers
        prefill(open_bench(asked.model, kv_dtype, asked.layers), asked.prompts, all_layers, asked.prompt_rounds)


if __name__ == "__main__":
    main()
