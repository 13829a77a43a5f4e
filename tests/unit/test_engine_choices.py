"""What one request may ask beside its text: an answer that is begun, further ends, several answers, probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from chatglm_backend.core import (
    FinishReason,
    PromptChances,
    PromptFormat,
    TokenChance,
    TokenEvent,
)
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.errors import InvalidRequest
from chatglm_backend.tokenizers.base import EncodedPrompt
from tests.engine_fakes import (
    OFF,
    STOP_ID,
    VOCAB,
    ByteDecoder,
    ByteTokenizer,
    FakeModel,
    answer,
    ask,
    collect,
    engine_of,
    hash_row,
    script_row,
    start,
    text_of,
)


class _Continuing(ByteTokenizer):
    """Whose prompts end with an answer that is begun, as long as the prompt."""

    def encode_prompt(self, prompt: str, prompt_format: PromptFormat) -> EncodedPrompt:
        """All of it is begun."""
        encoded = super().encode_prompt(prompt, prompt_format)
        return replace(encoded, begun=len(encoded.ids))

    def stream(self) -> Any:
        """Drops a text's first sign, as a space there is dropped."""
        return _Dropping()


class _Dropping(ByteDecoder):
    def __init__(self) -> None:
        super().__init__()
        self._first = True

    def add(self, token_id: int) -> str:
        """One sign less."""
        first, self._first = self._first, False
        return "" if first else super().add(token_id)


def test_an_answer_that_is_begun_gives_its_whole_rest() -> None:
    """The decoder has been through the beginning, so that a space behind it is no start of a text."""
    model = FakeModel(row=script_row(b" boy", 4))
    assert text_of(Engine(model, _Continuing(), OFF).generate(ask("I am"))) == " boy"


def test_a_stop_id_of_the_request_ends_an_answer() -> None:
    """Beside the model's own, and neither shown nor counted; ids that there are none of are refused by name."""
    events = answer("abc", "hi", stop_ids=(ord("c"),))
    assert (text_of(events), events[-1].usage.completion_tokens) == ("ab", 2)
    for name, wrong in (("stop_token_ids", {"stop_ids": (VOCAB,)}), ("logit_bias", {"logit_bias": ((VOCAB, 1.0),)})):
        with pytest.raises(InvalidRequest) as caught:
            engine_of().prepare(ask("a", **wrong))
        assert caught.value.fields["field"] == name


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
def test_answers_to_one_prompt_share_its_reading(family: Any) -> None:
    """As soon as it is read, before the first answer's end."""
    engine = engine_of(FakeModel(family=family), EngineOptions(draft_tokens=0))
    alone = text_of(engine_of(FakeModel(family=family)).generate(ask("hello there")))
    first = start(engine, replace(ask("hello there"), shared=True))
    while first.reading:
        engine.step()
    others = [start(engine, ask("hello there", f"r{i}")) for i in range(2)]
    told = collect(engine, [*others, first])
    assert {one.cached_tokens for one in others} == {len("hello there") - 1}
    assert [text_of(told[one]) for one in others] == [alone] * 2


def test_probabilities_are_those_of_the_plain_logits() -> None:
    """Before temperature, bias and penalties; alone, in a batch and with drafts; nothing where nobody asks."""
    changes: dict[str, Any] = {"repetition_penalty": 1.4, "logit_bias": ((5, 3.0),), "max_new_tokens": 30}
    told: list[list[Any]] = []
    for options in (OFF, EngineOptions(draft_tokens=8, prefix_cache_bytes=0)):
        engine = engine_of(FakeModel(row=lambda ids: hash_row(ids[-1:])), options)
        sequences = [
            start(engine, ask("ab", f"r{i}", logprobs=count, **changes)) for i, count in enumerate((3, 0, None))
        ]
        events = collect(engine, sequences)
        told += [[e for e in events[one] if isinstance(e, TokenEvent)] for one in sequences]
        assert (events[sequences[0]][-1].usage.draft_tokens > 0) == (options is not OFF)
    assert told[:3] == told[3:]
    three, none, unasked = told[:3]
    ids = list(b"ab")
    for event in three:
        expected = hash_row(ids[-1:]).log_softmax(-1)
        own, *top = event.chances
        best, best_ids = expected.topk(3)
        assert (own.token_id, own.logprob) == (event.token_id, pytest.approx(float(expected[event.token_id])))
        assert [(one.token_id, one.logprob) for one in top] == list(zip(best_ids.tolist(), best.tolist(), strict=True))
        ids.append(event.token_id)
    assert [event.chances for event in none] == [event.chances[:1] for event in three]
    assert {event.chances for event in unasked} == {()}


def test_a_prompts_chances_are_told_with_few_rows_at_a_time() -> None:
    """Beside another sequence; nothing is reused for them, and the space before a text is none of it."""
    prompt, rows = "abcdefghijklmnopq", 6
    model = FakeModel()
    engine = engine_of(model, EngineOptions(draft_tokens=0, prefill_rows=rows))
    list(engine.generate(ask(prompt)))
    wanted = [replace(ask(prompt, name, logprobs=2), prompt_chances=True, prompt_only=name == "b") for name in "ab"]
    sequences = [start(engine, one) for one in (*wanted, ask("other", "c"))]
    events = collect(engine, sequences)
    for sequence in sequences[:2]:
        told = next(event.chances for event in events[sequence] if isinstance(event, PromptChances))
        assert told[0] == (TokenChance(ord("a"), b"a", None),)
        assert [own.token_id for own, *_ in told] == [*prompt.encode()]
        for at, (own, *top) in enumerate(told[1:], start=1):
            expected = hash_row([*prompt.encode()[:at]]).log_softmax(-1)
            assert own.logprob == pytest.approx(float(expected[own.token_id]))
            assert [one.token_id for one in top] == expected.topk(2).indices.tolist()
        assert events[sequence][-1].usage.cached_tokens == 0
    assert model.most_logit_rows == rows
    end = events[sequences[1]][-1]
    assert (end.finish_reason, end.usage.completion_tokens) == (FinishReason.LENGTH, 0)
    assert text_of(events[sequences[0]]) == text_of(engine.generate(ask(prompt)))
    silent = engine_of(FakeModel(row=lambda _: torch.eye(VOCAB)[STOP_ID])).generate(replace(wanted[0], request_id="d"))
    (last,) = [event for event in silent if isinstance(event, TokenEvent)]
    assert (last.chances[0].token_id, last.text) == (
        STOP_ID,
        "",
    )  # the last of the list is the answer's, as OpenAI has it
    with pytest.raises(InvalidRequest, match="ChatGLM-6B's kind"):
        engine_of(FakeModel(family="chatglm")).prepare(wanted[0])
