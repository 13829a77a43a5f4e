"""How many guessed tokens are right on real text: the bundled model on prompts that copy, and on others.

Each prompt is answered with and without guesses; the texts must be equal. A copying prompt asks again what was
answered before in the same conversation. Counts work, not time: steps are what a large model would wait for. The
engine's clock ticks as often in every step, as if further rows cost nothing, which is nearly so for a large model that
waits for memory; by its own time the small one would hardly guess at all, its plain steps being so short.

    python -m benchmarks.acceptance
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

from chatglm_backend.core import CancelToken, Completed, GenerationParams, GenerationRequest, Message, TokenEvent
from chatglm_backend.engine.engine import Engine, EngineOptions
from chatglm_backend.models.base import ChatModel
from chatglm_backend.service.loading import open_model
from chatglm_backend.settings import Settings
from chatglm_backend.tokenizers.base import Tokenizer, load_tokenizer

__all__ = ["main"]

QUESTIONS = ("什么是INT4量化？", "What is INT4 quantization?", "怎么加载ChatGLM-6B？", "What can you do?", "37+85=?")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one answer took."""

    text: str
    tokens: int
    guessed: int
    right: int


def answer(model: ChatModel, tokenizer: Tokenizer, messages: tuple[Message, ...], draft_tokens: int) -> Answer:
    """Answer greedily on an engine of its own, which reuses nothing."""
    ticks = itertools.count(1.0, 0.01)
    options = EngineOptions(draft_tokens=draft_tokens, prefix_cache_bytes=0)
    engine = Engine(model, tokenizer, options, clock=lambda: next(ticks))
    request = GenerationRequest("acceptance", messages=messages, params=GenerationParams(max_new_tokens=200))
    events = list(engine.generate(request))
    last = events[-1]
    if not isinstance(last, Completed):
        raise TypeError("an answer must end with its last event")
    text = "".join(event.text for event in events if isinstance(event, TokenEvent)) + last.text
    return Answer(text, last.usage.completion_tokens, last.usage.draft_tokens, last.usage.accepted_draft_tokens)


def table(model: ChatModel, tokenizer: Tokenizer, draft_tokens: int) -> Iterator[str]:
    """A line for each question, asked once and asked again."""
    yield "| question | asked | tokens | guessed | right | steps a token | same text |"
    yield "|---|---|---|---|---|---|---|"
    for question in QUESTIONS:
        first = (Message("user", question),)
        earlier = answer(model, tokenizer, first, 0)
        again = (*first, Message("assistant", earlier.text), *first)
        for asked, messages in (("once", first), ("again", again)):
            plain = answer(model, tokenizer, messages, 0)
            found = answer(model, tokenizer, messages, draft_tokens)
            steps = (found.tokens - found.right) / max(1, found.tokens)
            yield (
                f"| {question} | {asked} | {found.tokens} | {found.guessed} | {found.right} | {steps:.2f} "
                f"| {'yes' if found.text == plain.text else 'NO'} |"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", help="another model; without it the bundled one")
    parser.add_argument("--draft-tokens", type=int, default=8)
    options = parser.parse_args()
    opened = open_model(
        options.model, Settings(), progress=lambda _: None, cancel=CancelToken(), note=lambda _: None, env=os.environ
    )
    tokenizer = load_tokenizer(opened.checkpoint.tokenizer_folder, opened.checkpoint.config.family)
    for line in table(opened.network, tokenizer, options.draft_tokens):
        print(line)


if __name__ == "__main__":
    main()
