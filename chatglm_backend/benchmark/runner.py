"""Runs prompts of chosen lengths through the engine and reads the clock.

The engine is the one that serves pages; only its prompts are made up
(:mod:`.counted_prompts`) and stop ids are ignored, so that every run makes as many tokens as
asked for. Knows nothing of files and prints nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.benchmark.report import BenchmarkRun, SweepPoint
from chatglm_backend.core import (
    CancelToken,
    Clock,
    Completed,
    GenerationParams,
    GenerationRequest,
    TokenEvent,
    monotonic_clock,
)
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.errors import RequestError
from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.base import ChatModel

_UNBOUNDED = 1e9


@dataclass(frozen=True, slots=True)
class BenchmarkPlan:
    """What to measure: every prompt length with every batch size, ``repeats`` times, the median kept."""

    prompt_tokens: tuple[int, ...] = (32, 128, 512)
    new_tokens: int = 32
    batches: tuple[int, ...] = (1,)
    draft_tokens: int = 0
    repeats: int = 3


@dataclass(frozen=True, slots=True)
class Machine:
    """What the runs' figures are to be read with; ``weight_bytes`` are the INT4 bytes read per token."""

    model: str
    kernel: str
    threads: int
    weight_bytes: int
    bandwidth: Callable[[], float]


def run_plan(
    model: ChatModel,
    plan: BenchmarkPlan,
    machine: Machine,
    adapters: Mapping[str, Adapter] | None = None,
    *,
    clock: Clock = monotonic_clock,
) -> tuple[BenchmarkRun, ...]:
    """Return one entry per prompt length × batch, in order, and as many for each adapter, measured in turn.

    Raises RequestError.
    """
    options = EngineOptions(
        draft_tokens=plan.draft_tokens, prefix_cache_bytes=0, prefill_share=_UNBOUNDED, prefill_units_per_step=1 << 30
    )
    engine = Engine(model, CountedPrompts(model.config), options, clock=clock)
    engine.adapters = adapters or {}
    names = tuple(dict.fromkeys(("", *engine.adapters)))  # the base may have a prefix of its own
    for name in names:  # warms up
        run_prompts(engine, [f"{min(plan.prompt_tokens)}/0"], 4, clock, adapter=name)
    found: list[BenchmarkRun] = []
    for length in plan.prompt_tokens:
        for batch in plan.batches:
            bandwidth = machine.bandwidth()
            measured: dict[str, list[_Measured]] = {name: [] for name in names}
            for repeat in range(plan.repeats):
                prompts = [f"{length}/{1 + repeat * batch + i}" for i in range(batch)]
                for name, runs in measured.items():
                    runs.append(run_prompts(engine, prompts, plan.new_tokens, clock, adapter=name))
            # Neighbours come and go: one reading in a bad moment would give a share above 100 %.
            bandwidth = max(bandwidth, machine.bandwidth())
            found.extend(_entry(name, length, batch, plan, machine, bandwidth, measured[name]) for name in names)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Measured:
    """One batch: seconds to the first token of the first prompt, and the time of every step that all took part in."""

    ttft_s: float
    prefill_tok_s: float
    decode_tok_s: float
    itl_s: tuple[float, ...]
    draft_tokens: int
    accepted_draft_tokens: int


def run_prompts(
    engine: Engine, prompts: Sequence[str], new_tokens: int, clock: Clock = monotonic_clock, *, adapter: str = ""
) -> _Measured:
    """Read all prompts, then decode them together, each with that fine-tune. Raises RequestError."""
    began = clock()
    params = GenerationParams(max_new_tokens=new_tokens)
    running = [
        engine.start(
            GenerationRequest(
                f"benchmark-{i}",
                prompt=prompt,
                prompt_format="raw",
                params=params,
                ignore_stop_ids=True,
                adapter=adapter,
            ),
            CancelToken(),
            began,
        )
        for i, prompt in enumerate(prompts)
    ]
    stamps: dict[int, list[float]] = {id(sequence): [] for sequence in running}
    done: dict[int, Completed] = {}
    while len(done) < len(running):
        results = engine.step()
        now = clock()
        for sequence, result in results:
            if isinstance(result, RequestError):
                raise result
            if isinstance(result, TokenEvent):
                stamps[id(sequence)].append(now)
            elif isinstance(result, Completed):
                done[id(sequence)] = result
    first = done[id(running[0])]
    all_writing = max((s[0] for s in stamps.values() if s), default=began)
    first_ended = min((s[-1] for s in stamps.values() if s), default=began)
    shared = [[t for t in s if all_writing <= t <= first_ended] for s in stamps.values()]
    window = first_ended - all_writing
    count = sum(len(s) - 1 for s in shared if s)
    gaps = tuple(b - a for s in shared for a, b in pairwise(s))
    return _Measured(
        ttft_s=first.timing.ttft_s or 0.0,
        prefill_tok_s=first.timing.prefill_tok_s or 0.0,
        decode_tok_s=count / window if window > 0 else 0.0,
        itl_s=gaps,
        draft_tokens=sum(c.usage.draft_tokens for c in done.values()),
        accepted_draft_tokens=sum(c.usage.accepted_draft_tokens for c in done.values()),
    )


def _entry(
    adapter: str,
    length: int,
    batch: int,
    plan: BenchmarkPlan,
    machine: Machine,
    bandwidth: float,
    measured: Sequence[_Measured],
) -> BenchmarkRun:
    decode = statistics.median(m.decode_tok_s for m in measured)
    gaps = sorted(1000 * gap for m in measured for gap in m.itl_s) or [0.0]
    share = machine.weight_bytes * decode / (bandwidth * 1e9) if batch == 1 and bandwidth > 0 else None
    return BenchmarkRun(
        model=machine.model,
        adapter=adapter,
        prompt_tokens=length,
        new_tokens=plan.new_tokens,
        batch=batch,
        ttft_s=statistics.median(m.ttft_s for m in measured),
        prefill_tok_s=statistics.median(m.prefill_tok_s for m in measured),
        decode_tok_s=decode,
        itl_p50_ms=gaps[len(gaps) // 2],
        itl_p95_ms=gaps[min(len(gaps) - 1, int(len(gaps) * 0.95))],
        kernel=machine.kernel,
        threads=machine.threads,
        read_bandwidth_gb_s=bandwidth,
        bandwidth_share=share,
        draft_tokens=plan.draft_tokens,
        proposed_draft_tokens=sum(m.draft_tokens for m in measured),
        accepted_draft_tokens=sum(m.accepted_draft_tokens for m in measured),
    )


def thread_counts(most: int) -> tuple[int, ...]:
    """Powers of two below ``most``, and ``most``."""
    return (*(1 << power for power in range((most - 1).bit_length())), most)


def sweep_threads(open_engine: Callable[[int], Engine], most: int) -> tuple[SweepPoint, ...]:
    """One sequence's speed at every count of :func:`thread_counts`.

    ``open_engine`` builds the model anew, because kernels choose and share out their work by thread count.
    """
    points = []
    for threads in thread_counts(most):
        engine = open_engine(threads)
        run_prompts(engine, ["32/0"], 4)
        found = run_prompts(engine, ["32/1"], 16)
        points.append(SweepPoint(threads, found.decode_tok_s, found.prefill_tok_s))
    return tuple(points)
