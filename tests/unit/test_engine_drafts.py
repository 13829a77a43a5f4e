"""Draft tokens change no text, and cost little where they are wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from chatglm_backend.core import (
    TokenEvent,
)
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from tests.engine_fakes import (
    OFF,
    ByteTokenizer,
    FakeClock,
    FakeModel,
    answer,
    ask,
    engine_of,
    script_row,
    text_of,
)

DRAFTING = EngineOptions(draft_tokens=8, prefix_cache_bytes=0)


@pytest.mark.parametrize(
    "text", ["hello world hello world hello world " * 3, "no repeats: qwertyuiop", "aaaaaaaaaaaaaaaaaaaab"]
)
@pytest.mark.parametrize("stop", [(), ("world h",)])
def test_draft_tokens_change_no_text(text: str, stop: tuple[str, ...]) -> None:
    """The same tokens, texts and end with draft tokens as without."""
    drafted = answer(text, "hello world", DRAFTING, stop=stop)
    without = answer(text, "hello world", stop=stop)
    assert [e for e in without if isinstance(e, TokenEvent)] == [e for e in drafted if isinstance(e, TokenEvent)]
    assert without[-1].finish_reason is drafted[-1].finish_reason


def test_drafts_on_a_hashing_model_are_undone_exactly() -> None:
    """Wrong draft tokens leave no trace in the KV cache."""
    request = ask("abcabcabcabcabc", max_new_tokens=100)
    assert text_of(engine_of().generate(request)) == text_of(engine_of(None, DRAFTING).generate(request))


def test_right_drafts_save_steps() -> None:
    """Copied text takes far fewer decodes than tokens, and the counts are told."""
    text = "the quick brown fox jumps over the lazy dog. "
    model = FakeModel(row=script_row(text.encode(), len(text)))
    last = list(engine_of(model, DRAFTING).generate(ask(text, max_new_tokens=200)))[-1]
    assert sum(w == "decode1" for w in model.log) < last.usage.completion_tokens / 2
    assert 0 < last.usage.accepted_draft_tokens <= last.usage.draft_tokens


def test_a_predicted_answer_comes_in_fewer_steps() -> None:
    """Where it is right, also after a place where it is not; the text is the model's own in any case."""
    text = "sphinx of black quartz, judge my vow"
    steps, texts = {}, set()
    for predicted in ("", text, text.replace("black", "white"), "0123456789"):
        model = FakeModel(row=script_row(text.encode(), len("hello")))
        engine = engine_of(model, DRAFTING)
        texts.add(text_of(engine.generate(replace(ask("hello", max_new_tokens=60), predicted=predicted))))
        steps[predicted] = sum(work == "decode1" for work in model.log)
    plain, right, nearly, wrong = steps.values()
    assert texts == {text}
    assert right < nearly < plain == wrong
    assert right < plain / 2


@pytest.mark.parametrize(("visitor", "prompt"), [("me", "hello"), ("me", "hallo"), ("other", "hello")])
def test_an_answer_made_again_comes_in_fewer_steps(visitor: str, prompt: str) -> None:
    """To the same prompt or to one that was edited a little; one visitor's answer helps nobody else."""
    text = "sphinx of black quartz, judge my vow"
    model = FakeModel(row=script_row(text.encode(), len("hello")))
    engine = engine_of(model, EngineOptions(draft_tokens=8))
    first, again = (
        replace(ask(words, max_new_tokens=60), visitor=name) for words, name in (("hello", "me"), (prompt, visitor))
    )
    assert text_of(engine.generate(first)) == text
    plain, _ = model.log.count("decode1"), model.log.clear()
    assert text_of(engine.generate(again)) == text
    steps = model.log.count("decode1")
    assert (steps < plain / 2) if visitor == "me" else (steps == plain)


class RecordingModel(FakeModel):
    """Takes nine steps' time longer for the first step of so many rows, as one that is recorded may."""

    def __init__(self, text: str, *, tells: bool) -> None:
        super().__init__(row=script_row(text.encode(), len(text)), decode_s=1.0)
        self._tells, self._known = tells, set[int]()

    def decode(self, feeds: Any) -> torch.Tensor:
        """One step."""
        rows = sum(len(feed.ids) for feed in feeds)
        first = rows not in self._known
        self.settled = not (self._tells and first)
        self.clock.now += 9.0 * first
        self._known.add(rows)
        return super().decode(feeds)


@pytest.mark.parametrize("tells", [True, False])
def test_a_step_that_is_recorded_says_nothing_of_what_drafts_cost(tells: bool) -> None:
    """Its time is not that of the next ones; taken for it, hardly any draft would seem to pay."""
    text = "the quick brown fox jumps over the lazy dog. "
    model = RecordingModel(text, tells=tells)
    last = list(engine_of(model, DRAFTING).generate(ask(text, max_new_tokens=200)))[-1]
    steps = model.log.count("decode1")
    assert (steps < last.usage.completion_tokens / 2) is tells


class WrongDraft:
    """Always has an opinion, never a right one: the models here never choose the token 257."""

    def append(self, token: int) -> None:
        """The answer goes on."""

    def propose(self, size: int) -> tuple[int, ...]:
        """As many as asked for."""
        return (257,) * size


@pytest.mark.parametrize("row_s", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("tokens", [40, 200])
def test_hopeless_drafts_cost_little_time(row_s: float, tokens: int) -> None:
    """On the fake clock a step is a second and a further row ``row_s``: an answer takes 3 percent longer at most.

    The engine's first draft ever tells it what rows cost; those two rows at most come on top.
    """
    times = []
    for options in (OFF, DRAFTING):
        clock = FakeClock()

        def row(ids: Any, clock: FakeClock = clock) -> torch.Tensor:
            clock.now += row_s
            return script_row([65] * 256, 2)(ids)

        model = FakeModel(clock=clock, decode_s=1.0 - row_s, row=row)
        engine = Engine(model, ByteTokenizer(), options, clock=clock, draft_source=lambda _: WrongDraft())
        list(engine.generate(ask("hi", max_new_tokens=tokens)))
        times.append(clock.now)
    assert times[1] <= 1.03 * times[0] + 2 * row_s
    assert times[1] > times[0]


def test_sampled_requests_get_no_draft() -> None:
    """Draft tokens are for greedy answers only."""
    last = list(engine_of(None, DRAFTING).generate(ask("aaaaaaaa", temperature=0.5, seed=1)))[-1]
    assert last.usage.draft_tokens == 0
