"""The step loop, on a counting model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
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
    PromptChances,
    PromptFormat,
    Timing,
    TokenChance,
    TokenEvent,
)
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.errors import ContextLimitExceeded, EngineFailure, InvalidRequest
from chatglm_backend.tokenizers.base import EncodedPrompt
from tests.engine_fakes import (
    STOP_ID,
    VOCAB,
    ByteDecoder,
    ByteTokenizer,
    FakeClock,
    FakeModel,
    collect,
    hash_row,
    script_row,
    text_of,
)

OFF = EngineOptions(draft_tokens=0, prefix_cache_bytes=0)


def ask(prompt: str, name: str = "r", **params: Any) -> GenerationRequest:
    """Return a request for 12 tokens unless told otherwise."""
    return GenerationRequest(name, prompt=prompt, params=GenerationParams(**{"max_new_tokens": 12, **params}))


def engine_of(model: FakeModel | None = None, options: EngineOptions = OFF) -> Engine:
    """Return an engine over the fakes, on the model's clock."""
    model = model or FakeModel()
    return Engine(model, ByteTokenizer(), options, clock=model.clock)


def start(engine: Engine, request: GenerationRequest, cancel: CancelToken | None = None) -> Any:
    """Start a request now."""
    return engine.start(request, cancel or CancelToken(), 0.0)


def answer(text: str, prompt: str, options: EngineOptions = OFF, **params: Any) -> list[Any]:
    """Return the events of a model that wants to say ``text``."""
    model = FakeModel(row=script_row(text.encode(), len(prompt.encode())))
    return list(engine_of(model, options).generate(ask(prompt, **{"max_new_tokens": 200, **params})))


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
