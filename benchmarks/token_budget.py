"""Where the milliseconds of a token go, by part, at several lengths of context: a Markdown table.

A full-size model of random weights makes tokens one by one, in turn as one recorded call, as the engine does, and
step by step with a timer around every product and every operation between products; before each, the memory's
bandwidth is read. The keys and values of the context are random numbers. Lengths take turns.

    python -m benchmarks.token_budget --model chatglm2-6b --context 32,1024 --tokens 15
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch

from benchmarks.flags import read_flags
from chatglm_backend.benchmark.bandwidth import read_bandwidth_gb_s
from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.checkpoint.known import MODELS, int4_bytes
from chatglm_backend.int4.select import select_kernel
from chatglm_backend.int4.synthetic import SyntheticTensors
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.base import Feed, build_model
from chatglm_backend.models.decoder import Decoder
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.weights import Embedding, Linear
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings

PROMPT_TOKENS = 32
PROBE_BYTES = 1 << 30
ONE_CALL, BANDWIDTH = "in one call", "bandwidth"
T = TypeVar("T")


class Stopwatch:
    """Seconds by part since the last ``take``."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    def timed(self, part: str, work: Callable[..., T]) -> Callable[..., T]:
        """The same work with its time added to ``part``."""

        def run(*args: Any, **named: Any) -> T:  # noqa: ANN401 - whatever the work takes
            start = time.perf_counter()
            try:
                return work(*args, **named)
            finally:
                self._seconds[part] += time.perf_counter() - start

        return run

    def take(self) -> dict[str, float]:
        """What was measured, and start over."""
        found, self._seconds = dict(self._seconds), defaultdict(float)
        return found


class TimedOps:
    """Any set of operations with a timer around each."""

    def __init__(self, ops: object, watch: Stopwatch) -> None:
        self._ops, self._watch = ops, watch

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a method of the operations
        return self._watch.timed(name, getattr(self._ops, name))


class TimedWeights:
    """Weights whose products have timers, named by the last word of the tensor's name."""

    def __init__(self, weights: Int4Weights, watch: Stopwatch) -> None:
        self._weights, self._watch = weights, watch
        self.vector = weights.vector

    def linear(self, name: str) -> Linear:
        """See :class:`~chatglm_backend.models.weights.Weights`."""
        return self._watch.timed(name.rsplit(".", 1)[-1], self._weights.linear(name))

    def embedding(self, name: str) -> Embedding:
        """See :class:`~chatglm_backend.models.weights.Weights`."""
        return self._watch.timed("embedding", self._weights.embedding(name))


def cache_with(model: Decoder, context: int, room: int) -> KVCache:
    """A cache of ``context`` tokens: a short prompt, then random keys and values."""
    cache = model.new_cache(context + room)
    prefill = model.prefill(CountedPrompts(model.config).encode_prompt(f"{PROMPT_TOKENS}/0", "raw").ids, cache)
    while not prefill.advance():
        pass
    cache.reserve(context + room)
    rows = context - PROMPT_TOKENS
    if rows > 0:
        for layer in range(model.config.num_layers):
            shape = (rows, model.config.num_kv_heads, model.config.head_dim)
            model.ops.store(torch.randn(shape), torch.randn(shape), *cache.room(layer, PROMPT_TOKENS, context))
        cache.length = context
    return cache


def budget(model: Decoder, watch: Stopwatch, contexts: list[int], tokens: int) -> dict[int, list[dict[str, float]]]:
    """Parts of every token by length of context; the first two are left out.

    ``ONE_CALL`` is a token as the engine makes it, ``token`` the whole of one that is made step by step, and
    ``BANDWIDTH`` the seconds of reading a GB (2³⁰ bytes) of memory just before.
    """
    caches = {context: cache_with(model, context, 2 * tokens + 4) for context in contexts}
    found: dict[int, list[dict[str, float]]] = {context: [] for context in contexts}
    buffer = torch.ones(PROBE_BYTES // 8, dtype=torch.int64)
    for _ in range(tokens + 2):
        for context, cache in caches.items():
            probe = _seconds(buffer.sum)
            model.replays = True
            one_call = _seconds(lambda cache=cache: model.decode([Feed((77,), cache)]))  # type: ignore[misc]
            model.replays = False
            watch.take()
            whole = _seconds(lambda cache=cache: model.decode([Feed((77,), cache)]))  # type: ignore[misc]
            found[context].append({**watch.take(), "token": whole, ONE_CALL: one_call, BANDWIDTH: probe})
    return {context: runs[2:] for context, runs in found.items()}


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def shares(found: dict[int, list[dict[str, float]]], token_bytes: int) -> Iterator[str]:
    """A token in one call: its speed, and its share of the bandwidth read just before it; medians of the rounds."""
    for context, runs in found.items():
        calls, probes = [run.pop(ONE_CALL) for run in runs], [run.pop(BANDWIDTH) for run in runs]
        share = statistics.median(token_bytes / a / (PROBE_BYTES / b) for a, b in zip(calls, probes, strict=True))
        call, probe = statistics.median(calls), PROBE_BYTES / statistics.median(probes) / 1e9
        yield (
            f"In one call at {context} tokens: {1e3 * call:.1f} ms (fastest {1e3 * min(calls):.1f}), "
            f"{token_bytes / call / 1e9:.1f} GB/s, {share:.0%} of the {probe:.1f} GB/s read in turn with it"
        )


def table(found: dict[int, list[dict[str, float]]]) -> Iterator[str]:
    """Medians in milliseconds, the costliest part first."""
    contexts = list(found)
    yield "| part | " + " | ".join(f"{context} tokens, ms" for context in contexts) + " |"
    yield "|---|" + "---|" * len(contexts)
    for runs in found.values():
        for run in runs:
            run["the rest"] = 2 * run["token"] - sum(run.values())
    middle = {c: {part: statistics.median(run[part] for run in runs) for part in runs[0]} for c, runs in found.items()}
    for part in sorted(middle[contexts[0]], key=lambda part: (part == "token", -middle[contexts[0]][part])):
        name = "**median token**" if part == "token" else part
        yield f"| {name} | " + " | ".join(f"{1e3 * middle[c][part]:.2f}" for c in contexts) + " |"


def main() -> None:
    """Measure and print."""
    models = sorted(MODELS)
    options = read_flags(__doc__, models, model="chatglm2-6b", context="32,1024", tokens=15, threads=0)
    threads = options.threads
    torch.set_num_threads(threads)
    watch, config = Stopwatch(), MODELS[options.model].config
    choice = select_kernel("auto", threads=threads, cache=kernel_cache(Settings()))
    weights = TimedWeights(Int4Weights(SyntheticTensors(config), choice.kernel), watch)
    ops: Any = TimedOps(choice.ops, watch)
    model = cast("Decoder", build_model(config, weights, ops=ops))
    before = read_bandwidth_gb_s(threads=threads)
    found = budget(model, watch, [int(n) for n in options.context.split(",")], options.tokens)
    after = read_bandwidth_gb_s(threads=threads)
    print(f"{options.model}, {threads} threads, read bandwidth {before:.0f} GB/s before, {after:.0f} after\n")
    for line in shares(found, int4_bytes(config)):
        print(line)
    print()
    for line in table(found):
        print(line)


if __name__ == "__main__":
    main()
