"""What guessed tokens cost and gain at a given acceptance, on full-size random weights.

Records an answer without guesses, then makes the same answer again while a script guesses each
next token right with the given probability, interleaved with runs without guesses. Prints one
JSON document: per acceptance the speed against the run without guesses beside it.

    python -m benchmarks.guessed_tokens --model chatglm2-6b --new-tokens 48
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from statistics import median

from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.benchmark.setup import SYNTHETIC_MODELS, open_synthetic
from chatglm_backend.core import Completed, GenerationParams, GenerationRequest, TokenEvent
from chatglm_backend.engine.engine import Engine, EngineOptions
from chatglm_backend.hardware import plan_threads, read_machine
from chatglm_backend.models.base import ChatModel
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings

PROMPT_TOKENS = 32


class ScriptedGuesses:
    """Knows the answer, and guesses each token of it right with probability ``acceptance``."""

    def __init__(self, answer: list[int], acceptance: float, seed: int) -> None:
        self._answer = answer
        self._acceptance = acceptance
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._place = 0

    def append(self, token: int) -> None:
        """The answer goes on."""
        del token
        self._place += 1

    def guess(self, size: int) -> tuple[int, ...]:
        """The next tokens of the answer, some of them spoilt."""
        right = self._answer[self._place : self._place + size]
        return tuple(token if self._random.random() < self._acceptance else token ^ 1 for token in right)


def answer_of(
    model: ChatModel, new_tokens: int, draft_tokens: int, source: ScriptedGuesses | None
) -> tuple[list[int], Completed]:
    """Make one answer; its tokens and its last event."""
    options = EngineOptions(draft_tokens=draft_tokens, prefix_cache_bytes=0)
    tokenizer = CountedPrompts(model.config)
    engine = (
        Engine(model, tokenizer, options)
        if source is None
        else Engine(model, tokenizer, options, guesses=lambda _: source)
    )
    request = GenerationRequest(
        "guessed",
        prompt=f"{PROMPT_TOKENS}/1",
        prompt_format="raw",
        params=GenerationParams(max_new_tokens=new_tokens),
        ignore_stop_ids=True,
    )
    events = list(engine.generate(request))
    last = events[-1]
    if not isinstance(last, Completed):
        raise TypeError("an answer must end with its last event")
    return [event.token_id for event in events if isinstance(event, TokenEvent)], last


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SYNTHETIC_MODELS), default="chatglm2-6b")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--draft-tokens", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--kernel", default="auto")
    options = parser.parse_args()
    threads = options.threads or plan_threads(read_machine()).threads
    bench = open_synthetic(options.model, threads=threads, kernel=options.kernel, cache=kernel_cache(Settings()))
    expected, _ = answer_of(bench.model, options.new_tokens, 0, None)
    runs = []
    for acceptance in (0.0, 0.5, 0.8, 1.0):
        with_guesses, without, counts, same = [], [], (0, 0), True
        for repeat in range(options.repeats):
            without.append(answer_of(bench.model, options.new_tokens, 0, None)[1].timing.decode_tok_s or 0.0)
            source = ScriptedGuesses(expected, acceptance, repeat)
            tokens, last = answer_of(bench.model, options.new_tokens, options.draft_tokens, source)
            with_guesses.append(last.timing.decode_tok_s or 0.0)
            counts = (last.usage.draft_tokens, last.usage.accepted_draft_tokens)
            same = same and tokens == expected
        runs.append(
            {
                "acceptance": acceptance,
                "decode_tok_s": median(with_guesses),
                "without_tok_s": median(without),
                "ratio": median(a / b for a, b in zip(with_guesses, without, strict=True)),
                "draft_tokens": counts[0],
                "accepted_draft_tokens": counts[1],
                "same_tokens": same,
            }
        )
        print(json.dumps(runs[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"model": options.model, "kernel": bench.machine.kernel, "threads": threads, "runs": runs}))


if __name__ == "__main__":
    main()
