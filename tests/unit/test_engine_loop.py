"""The step loop, on a counting model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from refusals import refused

from chatglm_backend.core import (
    CancelToken,
    Completed,
    FinishReason,
    GenerationParams,
    GenerationRequest,
    Message,
    PrefillProgress,
    Timing,
    TokenEvent,
)
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.errors import ContextLimitExceeded, EngineFailure
from tests.engine_fakes import (
    OFF,
    VOCAB,
    ByteTokenizer,
    FakeClock,
    FakeModel,
    answer,
    ask,
    collect,
    engine_of,
    script_row,
    start,
    text_of,
)


def test_streamed_text_is_the_decoded_answer() -> None:
    """Chinese and emoji arrive whole, and the texts concatenate to the answer."""
    events = answer("你好，😀 world", "hi")
    assert text_of(events) == "你好，😀 world"
    assert not any("�" in event.text for event in events if isinstance(event, TokenEvent))


def test_the_stop_id_is_neither_shown_nor_counted() -> None:
    """Three bytes and the stop id are three completion tokens."""
    last = answer("abc", "hi")[-1]
    assert (last.finish_reason, last.usage.completion_tokens) == (FinishReason.STOP, 3)


def test_ignored_stop_ids_are_tokens_like_others() -> None:
    """Benchmarks get the number of tokens they ask for."""
    model = FakeModel(row=script_row(b"abc", 2))
    request = GenerationRequest("r", prompt="hi", params=GenerationParams(max_new_tokens=9), ignore_stop_ids=True)
    last = list(engine_of(model).generate(request))[-1]
    assert Completed is type(last)
    assert (last.finish_reason, last.usage.completion_tokens) == (FinishReason.LENGTH, 9)


def test_a_stop_string_ends_the_answer_before_it() -> None:
    """Also across tokens; what looked like its beginning is shown when it was not one, at the end at the latest."""
    events = answer("one EN two END three", "hi", stop=("END",))
    assert text_of(events) == "one EN two "
    assert FinishReason.STOP is events[-1].finish_reason
    assert answer("abcEN", "hi", stop=("END",))[-1].text == "EN"


def test_a_further_part_ends_what_was_held_back() -> None:
    """A half character, or a possible stop string, belongs to the part before the token that begins another."""
    tokenizer = ByteTokenizer()
    tokenizer.part_ids = frozenset({ord("|")})
    model = FakeModel(row=script_row(b"a\xc3EN|D", 2))
    events = list(Engine(model, tokenizer, OFF, clock=model.clock).generate(ask("hi", stop=("END",))))
    parts = [(event.text, event.ends_part) for event in events if isinstance(event, TokenEvent)]
    assert [part for part in parts if part[0]] == [("a", False), ("\ufffd", False), ("EN", True), ("D", False)]


@pytest.mark.parametrize(("options", "temperature"), [(OFF, 0), (EngineOptions(), 0), (OFF, 1.0)])
def test_an_answer_begins_as_it_must(options: EngineOptions, temperature: float) -> None:
    """With the likeliest of the openings, drafted or not, and then as the model likes."""
    row = script_row(b"xbc and so on", 2)
    params = GenerationParams(max_new_tokens=20, temperature=temperature, seed=1, top_k=1)
    request = GenerationRequest("r", prompt="hi", params=params, openings=("abc", "xyz", "xyw"))
    events = list(engine_of(FakeModel(row=row), options).generate(request))
    assert text_of(events)[:2] == "xy"
    assert text_of(events)[3:] == " and so on"


def test_a_conversation_is_encoded_as_one() -> None:
    """Messages go through the chat format."""
    request = GenerationRequest("r", messages=(Message("user", "hi"),))
    assert engine_of().encode(request).text == "user:hi\n"


def test_a_prompt_past_the_context_is_refused_with_numbers() -> None:
    """The error names tokens and limit, and the engine stays idle."""
    engine = engine_of(FakeModel(context_limit=10))
    with pytest.raises(ContextLimitExceeded) as caught:
        start(engine, ask("x" * 10))
    assert caught.value.fields == {"prompt_tokens": 10, "limit": 10}
    assert engine.idle


def test_an_answer_ends_at_the_context_limit() -> None:
    """Prompt and answer together never pass it; the reason is length."""
    last = list(engine_of(FakeModel(context_limit=10)).generate(ask("x" * 7, max_new_tokens=50)))[-1]
    assert (last.finish_reason, last.usage.completion_tokens) == (FinishReason.LENGTH, 3)


def test_prefill_progress_grows_to_the_whole_prompt() -> None:
    """Never twice the same, and the last one says all."""
    told = [e.done for e in engine_of(FakeModel(units=50)).generate(ask("x" * 40)) if isinstance(e, PrefillProgress)]
    assert sorted(set(told)) == told
    assert told[-1] == 40


@pytest.mark.parametrize("params", [{}, {"temperature": 0.9, "top_p": 0.8, "seed": 5}, {"repetition_penalty": 1.5}])
def test_batched_is_as_alone(params: dict[str, Any]) -> None:
    """Five requests together say what each says alone."""
    prompts = ["a", "bb", "你好", "hello world", "x" * 30]
    alone = [[e for e in engine_of().generate(ask(p, **params)) if isinstance(e, TokenEvent)] for p in prompts]
    engine = engine_of()
    sequences = [start(engine, ask(p, f"r{i}", **params)) for i, p in enumerate(prompts)]
    told = collect(engine, sequences)
    assert alone == [[e for e in told[s] if isinstance(e, TokenEvent)] for s in sequences]


def test_running_sequences_share_one_decode() -> None:
    """Four running sequences take one call a step, not four."""
    model = FakeModel()
    engine = engine_of(model)
    told = collect(engine, [start(engine, ask(f"p{i}", f"r{i}")) for i in range(4)])
    tokens = sum(isinstance(e, TokenEvent) for events in told.values() for e in events)
    assert "decode4" in model.log
    assert sum(w.startswith("decode") for w in model.log) < tokens / 2


@pytest.mark.parametrize("index", range(12))
def test_cancelled_at_any_token_the_engine_stays_usable(index: int) -> None:
    """The text so far is kept, the other sequence is untouched, and a new one runs."""
    expected = text_of(engine_of().generate(ask("other")))
    engine = engine_of()
    cancel = CancelToken()
    mine, other = start(engine, ask("mine", "a"), cancel), start(engine, ask("other", "b"))
    told: dict[Any, list[Any]] = {mine: [], other: []}
    while not engine.idle:
        for sequence, event in engine.step():
            told[sequence].append(event)
            if sequence is mine and getattr(event, "index", None) == index:
                cancel.cancel()
    last = told[mine][-1]
    reason = FinishReason.CANCELLED if index < 11 else FinishReason.LENGTH
    assert (reason, index + 1) == (last.finish_reason, last.usage.completion_tokens)
    assert expected == text_of(told[other])
    assert text_of(engine_of().generate(ask("next"))) == text_of(engine.generate(ask("next")))


@pytest.mark.parametrize("unit", range(1, 8))
def test_cancel_during_prefill_stops_within_one_unit(unit: int) -> None:
    """At most the unit under way is finished."""
    model, cancel = FakeModel(units=8), CancelToken()
    model.on_work = lambda _: cancel.cancel() if len(model.log) == unit else None
    last = list(engine_of(model).generate(ask("prompt"), cancel))[-1]
    assert unit == len(model.log)
    assert FinishReason.CANCELLED is last.finish_reason


def test_a_timeout_is_told_as_one() -> None:
    """The cancel token's reason is the finish reason."""
    cancel = CancelToken()
    cancel.cancel(FinishReason.TIMEOUT)
    assert FinishReason.TIMEOUT is list(engine_of().generate(ask("x"), cancel))[-1].finish_reason


@pytest.mark.parametrize(("unit_s", "most"), [(1.0, 1), (0.25, 4), (10.0, 1)])
def test_a_prompt_that_joins_keeps_streams_flowing(unit_s: float, most: int) -> None:
    """Between two decodes come only as many units as fit into one decode's time, and always one."""
    model = FakeModel(units=40, unit_s=0.0, decode_s=1.0)
    engine = engine_of(model)
    start(engine, ask("first", "a", max_new_tokens=60))
    engine.step(), engine.step(), engine.step()
    model.unit_s = unit_s
    model.log.clear()
    start(engine, ask("second", "b"))
    while not engine.idle:
        engine.step()
    runs = "".join("u" if w == "unit" else " " for w in model.log).split()
    assert most == max(map(len, runs))
    assert model.log.count("unit") == 40


def test_without_a_stream_to_protect_units_are_done_at_a_stretch() -> None:
    """A lone prompt does not pay a step for every unit."""
    model = FakeModel(units=32)
    engine = engine_of(model)
    start(engine, ask("x"))
    engine.step()
    assert engine.options.idle_units == len(model.log)


def test_a_failing_sequence_leaves_the_others_alone() -> None:
    """A batch that fails is retried one by one: one request gets the error, the other its full text."""
    expected = text_of(engine_of().generate(ask("good")))
    model = FakeModel()
    engine = engine_of(model)
    good, bad = start(engine, ask("good", "a")), start(engine, ask("bad", "b"))
    engine.step(), engine.step(), engine.step()
    plain = model.row

    def row(ids: Any) -> torch.Tensor:
        if bytes(ids[:3]) == b"bad":
            raise RuntimeError("boom in a layer")
        return plain(ids)

    model.row = row
    told = collect(engine, [good, bad])
    assert EngineFailure is type(told[bad][-1])
    assert expected.endswith(text_of(told[good]))
    assert FinishReason.LENGTH is told[good][-1].finish_reason


def test_a_failing_prefill_ends_only_its_request() -> None:
    """The error names the exception, and the engine goes on."""
    engine = engine_of(FakeModel(explode_on=ord("!")))
    with pytest.raises(EngineFailure, match="RuntimeError"):
        list(engine.generate(ask("bad!")))
    assert FinishReason.LENGTH is list(engine.generate(ask("good")))[-1].finish_reason


def test_unusable_logits_are_an_error_of_the_request() -> None:
    """NaN in every place ends the request with a clear failure."""
    with refused(EngineFailure, "engine.not_finite"):
        list(engine_of(FakeModel(row=lambda _: torch.full((VOCAB,), float("nan")))).generate(ask("x")))


def test_a_closed_generator_leaves_the_engine_idle() -> None:
    """A consumer that goes away takes its sequence with it."""
    engine = engine_of()
    events: Iterator[Any] = engine.generate(ask("x"))
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert engine.idle


def test_a_follow_up_reads_only_what_is_new() -> None:
    """The second turn reuses the first one's K/V, says so, and gives the same text."""
    reusing = EngineOptions(draft_tokens=0)
    engine = engine_of(None, reusing)
    first = [e.token_id for e in engine.generate(ask("hello there")) if isinstance(e, TokenEvent)]
    prompt = "hello there" + bytes(t for t in first[:4] if t < 128).decode() + " and more"
    last_events = list(engine.generate(ask(prompt)))
    assert text_of(engine_of().generate(ask(prompt))) == text_of(last_events)
    assert last_events[-1].usage.cached_tokens >= len("hello there")
    first_family = engine_of(FakeModel(family="chatglm"), EngineOptions())  # its prompt's tokens see one another
    texts = ("hello there", "hello there", "hello then")
    cached = [list(first_family.generate(ask(text)))[-1].usage.cached_tokens for text in texts]
    assert cached == [0, len("hello there") - 1, 0]


def test_waiting_and_reading_are_timed_apart() -> None:
    """One clock: submission at 0, work from 3, four units of a second, then tokens half a second apart."""
    clock = FakeClock()
    model = FakeModel(clock=clock, unit_s=1.0, decode_s=0.5)
    engine = engine_of(model)
    clock.now = 3.0
    sequence = engine.start(ask("abcd", max_new_tokens=3), CancelToken(), 0.0)
    assert collect(engine, [sequence])[sequence][-1].timing == Timing(3.0, 7.0, 4.0, 1.0, 2.0, 500.0, 500.0, 8.0)
