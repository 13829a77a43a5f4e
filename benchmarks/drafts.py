"""What draft tokens gain: at a scripted acceptance on full-size random weights, or on the bundled model's own texts.

    python -m benchmarks.drafts --model chatglm2-6b --new-tokens 48  # speed, in turn with answers without them
    python -m benchmarks.drafts                                      # how many of them are right: work, not time

Scripted: an answer is recorded, then made again while a script drafts each next token right with the given
probability. Own texts: each question is asked once, and again in the same conversation; the engine's clock ticks as
often in every step, as if further rows cost nothing, which is nearly so for a large model that waits for memory. Then
each is asked with a small edit, by whoever asked before, whose answer is a source of draft tokens, and by another.
Either way the answers must be the same as without.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

from benchmarks.flags import read_flags
from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.benchmark.setup import open_existing, open_synthetic
from chatglm_backend.checkpoint.default import bundled_folder
from chatglm_backend.checkpoint.known import MODELS
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.core import Completed, GenerationParams, GenerationRequest, Message, TokenEvent
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.models.base import ChatModel
from chatglm_backend.service.kernels import kernel_cache
from chatglm_backend.settings import Settings
from chatglm_backend.tokenizers.base import Tokenizer, load_tokenizer

PROMPT = "32/1"
QUESTIONS = ("什么是INT4量化？", "What is INT4 quantization?", "怎么加载ChatGLM-6B？", "What can you do?", "37+85=?")
EDITS = (
    ("什么是INT4量化？", "什么是INT4量化呢？"),
    ("What is INT4 quantization?", "what is INT4 quantization"),
    ("怎么加载ChatGLM-6B？", "怎样加载ChatGLM-6B？"),
    ("What can you do?", "So what can you do?"),
    ("介绍一下你自己", "请介绍一下你自己"),
    ("什么是大语言模型？", "大语言模型是什么？"),
    ("What is a CPU?", "What is a CPU, please?"),
    ("为什么天空是蓝色的？", "天空为什么是蓝色的？"),
    ("37+85=?", "37+86=?"),
)


class ScriptedDraft:
    """Knows the answer, and drafts each token of it right with probability ``acceptance``."""

    def __init__(self, answer: list[int], acceptance: float, seed: int) -> None:
        self._answer = answer
        self._acceptance = acceptance
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._place = 0

    def append(self, token: int) -> None:
        """The answer goes on."""
        del token
        self._place += 1

    def propose(self, size: int) -> tuple[int, ...]:
        """The next tokens of the answer, some of them spoilt."""
        right = self._answer[self._place : self._place + size]
        return tuple(token if self._random.random() < self._acceptance else token ^ 1 for token in right)


def answer(engine: Engine, new_tokens: int, **asked: Any) -> tuple[list[int], str, Completed]:  # noqa: ANN401
    """One greedy answer: its tokens, its text and its last event."""
    request = GenerationRequest("drafts", params=GenerationParams(max_new_tokens=new_tokens), **asked)
    events = list(engine.generate(request))
    last = events[-1]
    if not isinstance(last, Completed):
        raise TypeError("an answer must end with its last event")
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    return [event.token_id for event in tokens], "".join(event.text for event in tokens) + last.text, last


def scripted(model: ChatModel, new_tokens: int, draft_tokens: int, repeats: int) -> Iterator[str]:
    """A line for each acceptance: the speed against the run without beside it."""
    yield "| right | tok/s | without | ratio | drafted | right | same tokens |"
    yield "|---|---|---|---|---|---|---|"
    words = CountedPrompts(model.config)
    make = partial(Engine, model, words)
    ask = partial(answer, new_tokens=new_tokens, prompt=PROMPT, prompt_format="raw", ignore_stop_ids=True)
    plain = EngineOptions(draft_tokens=0, prefix_cache_bytes=0)
    drafting = EngineOptions(draft_tokens=draft_tokens, prefix_cache_bytes=0)
    expected = ask(make(plain))[0]
    for acceptance in (0.0, 0.5, 0.8, 1.0):
        speeds, same, usage = [], True, None
        for repeat in range(repeats):
            without = ask(make(plain))[2].timing.decode_tok_s or 0.0
            source = ScriptedDraft(expected, acceptance, repeat)
            tokens, _, last = ask(make(drafting, draft_source=lambda _, source=source: source))
            speeds.append((last.timing.decode_tok_s or 0.0, without))
            same, usage = same and tokens == expected, last.usage
        found, without = (median(column) for column in zip(*speeds, strict=True))
        ratio = median(a / b for a, b in speeds)
        counts = f"{usage.draft_tokens} | {usage.accepted_draft_tokens}" if usage else "|"
        yield f"| {acceptance:.0%} | {found:.2f} | {without:.2f} | {ratio:.3f} | {counts} | {'yes' if same else 'NO'} |"


def own_texts(model: ChatModel, words: Tokenizer, draft_tokens: int) -> Iterator[str]:
    """A line for each question, asked once and asked again."""
    yield "| question | asked | tokens | drafted | right | steps a token | same text |"
    yield "|---|---|---|---|---|---|---|"
    for question in QUESTIONS:
        first = (Message("user", question),)

        def ask(draft_tokens: int, messages: tuple[Message, ...]) -> tuple[list[int], str, Completed]:
            ticks = itertools.count(1.0, 0.01)
            options = EngineOptions(draft_tokens=draft_tokens, prefix_cache_bytes=0)
            return answer(Engine(model, words, options, clock=lambda: next(ticks)), 200, messages=messages)

        again = (*first, Message("assistant", ask(0, first)[1]), *first)
        for name, messages in (("once", first), ("again", again)):
            plain, (_, text, last) = ask(0, messages)[1], ask(draft_tokens, messages)
            tokens, right = last.usage.completion_tokens, last.usage.accepted_draft_tokens
            yield (
                f"| {question} | {name} | {tokens} | {last.usage.draft_tokens} | {right} "
                f"| {(tokens - right) / max(1, tokens):.2f} | {'yes' if text == plain else 'NO'} |"
            )


def edited(model: ChatModel, words: Tokenizer, draft_tokens: int) -> Iterator[str]:
    """A line for each question and its edit: steps a token for another visitor, and for the same."""
    yield "| question | edited | tokens | steps a token, another's | one's own | same text |"
    yield "|---|---|---|---|---|---|"
    for question, edit in EDITS:
        found = []
        for visitor in ("another", "own"):
            ticks = itertools.count(1.0, 0.01)
            engine = Engine(model, words, EngineOptions(draft_tokens), clock=partial(next, ticks))
            answer(engine, 200, messages=(Message("user", question),), visitor="own")
            found.append(answer(engine, 200, messages=(Message("user", edit),), visitor=visitor))
        tokens = len(found[0][0])
        steps = " | ".join(f"{1 - last.usage.accepted_draft_tokens / tokens:.2f}" for _, _, last in found)
        yield f"| {question} | {edit} | {tokens} | {steps} | {'yes' if found[0][1] == found[1][1] else 'NO'} |"


def main() -> None:
    """Measure and print."""
    models = ("", *sorted(MODELS))  # without one: own texts
    options = read_flags(__doc__, models, model="", new_tokens=48, draft_tokens=8, repeats=3, threads=0, kernel="auto")
    threads = options.threads
    if options.model:
        bench = open_synthetic(options.model, threads=threads, kernel=options.kernel, cache=kernel_cache(Settings()))
        lines = scripted(bench.model, options.new_tokens, options.draft_tokens, options.repeats)
    else:
        settings = Settings(threads=threads)
        folder = bundled_folder()
        bench = open_existing(str(folder), settings, progress=lambda _: None, note=print, env=os.environ)
        words = load_tokenizer(open_low_bit(folder).tokenizer_folder, "chatglm")
        lines = itertools.chain(*(make(bench.model, words, options.draft_tokens) for make in (own_texts, edited)))
    for line in lines:
        print(line, flush=True)


if __name__ == "__main__":
    main()
