"""Answers that have to fit a JSON schema."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from chatglm_backend.core import CancelToken, FinishReason, GenerationParams, GenerationRequest, Message, TokenEvent
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.grammar import Grammars
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.errors import EngineFailure, UnusableSchema
from chatglm_backend.sentences import load_texts
from chatglm_backend.tokenizers.base import EncodedPrompt, load_tokenizer
from tests import tiny
from tests.engine_fakes import VOCAB, ByteTokenizer, FakeModel, collect, hash_row, script_row, text_of

OFF = EngineOptions(draft_tokens=0, prefix_cache_bytes=0)
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "名字": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "size": {"type": "number"},
        "mood": {"enum": ["高兴", "sad", 3, None]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 3},
        "home": {"$ref": "#/$defs/place"},
        "married": {"type": ["boolean", "null"]},
    },
    "required": ["名字", "age", "mood", "home"],
    "$defs": {"place": {"type": "object", "properties": {"city": {"enum": ["北京", "Paris"]}}, "required": ["city"]}},
}


def talkative(ids: Sequence[int]) -> Tensor:
    """Logits that depend on every id before, with some love of closing what is open."""
    row = hash_row(ids)
    row[list(b'"}]')] += 2.0
    return row


def ask(prompt: str, schema: Any = None, name: str = "r", **params: Any) -> GenerationRequest:
    """A request whose answer must fit ``schema``."""
    chosen = GenerationParams(**{"max_new_tokens": 150, **params})
    return GenerationRequest(name, prompt=prompt, params=chosen, json_schema=schema and json.dumps(schema))


def engine_of(row: Any = talkative, options: EngineOptions = OFF) -> Engine:
    """An engine whose model's logits are ``row``."""
    return Engine(FakeModel(row=row), ByteTokenizer(), options)


def told(request: GenerationRequest, row: Any = talkative, options: EngineOptions = OFF) -> list[Any]:
    """The events of a request alone."""
    return list(engine_of(row, options).generate(request))


def check_person(value: Any) -> None:
    """Whether a value fits ``PERSON``."""
    assert {"名字", "age", "mood", "home"} <= value.keys() <= PERSON["properties"].keys()
    assert isinstance(value["名字"], str)
    assert len(value["名字"]) <= 8
    assert type(value["age"]) is int
    assert 0 <= value["age"] <= 150
    assert value["mood"] in ("高兴", "sad", 3, None)
    assert value["home"] in ({"city": "北京"}, {"city": "Paris"})
    assert isinstance(value.get("size", 0), (int, float))
    assert value.get("married") in (True, False, None)
    tags = value.get("tags", [])
    assert len(tags) <= 3
    assert all(isinstance(tag, str) and len(tag) <= 4 for tag in tags)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_the_model_likes_the_answer_fits(seed: int) -> None:
    """Drawn at random; its pieces are the whole, and what is cut off says so."""
    events = told(ask("who?", PERSON, temperature=1.0, seed=seed))
    text = "".join(event.text for event in events if isinstance(event, TokenEvent))
    assert text == text_of(events)
    if events[-1].finish_reason is FinishReason.LENGTH:  # a long number, for example
        assert events[-1].usage.completion_tokens == 150
    else:
        assert events[-1].finish_reason is FinishReason.STOP
        check_person(json.loads(text))


def test_any_object_is_one() -> None:
    """Where a request names no fields."""
    events = told(ask("x", {"type": "object"}, temperature=1.0, seed=4))
    assert isinstance(json.loads(text_of(events)), dict)


def test_beside_others_as_alone() -> None:
    """Each keeps to its own schema, and who has none to none."""
    requests = [ask("one", PERSON, "a"), ask("two", None, "b", max_new_tokens=40), ask("three", {"enum": [1, 2]}, "c")]
    alone = [text_of(told(request)) for request in requests]
    engine = engine_of()
    running = [engine.start(request, CancelToken(), 0.0) for request in requests]
    events = collect(engine, running)
    assert [text_of(events[one]) for one in running] == alone
    check_person(json.loads(alone[0]))
    assert alone[2] in ("1", "2")


def test_drafts_change_nothing() -> None:
    """What the prompt has already is guessed, and cut where the schema forbids it."""
    wanted = b'{"mood": "sad", "mood": "sad", "note": "sad, sad, sad, sad"}'
    schema = {"type": "object", "properties": {"mood": {"enum": ["sad"]}, "note": {"type": "string", "maxLength": 40}}}
    prompt = wanted.decode() * 2
    row = script_row([*wanted, *wanted], len(prompt))
    with_drafts, without = (
        told(ask(prompt, schema), row, EngineOptions(draft_tokens=n, prefix_cache_bytes=0)) for n in (8, 0)
    )
    assert text_of(with_drafts) == text_of(without)
    assert set(json.loads(text_of(without))) == {"mood", "note"}
    assert with_drafts[-1].usage.accepted_draft_tokens > 0
    assert with_drafts[-1].usage.completion_tokens == without[-1].usage.completion_tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_certain_takes_fewer_steps(temperature: float) -> None:
    """Names of properties are evaluated several tokens at a time; the text is that of single steps."""
    schema = {"type": "object", "properties": {"a long name": {"enum": [1]}, "another one": {"enum": [2]}}}
    schema["required"] = ["a long name", "another one"]
    texts, steps = [], []
    for most in (0, 8):
        model = FakeModel(row=talkative)
        engine = Engine(model, ByteTokenizer(), EngineOptions(draft_tokens=most, prefix_cache_bytes=0))
        texts.append(text_of(engine.generate(ask("x", schema, temperature=temperature, seed=3))))
        steps.append(model.log.count("decode1"))
    assert texts[0] == texts[1]
    assert steps[1] < steps[0] / 2


def test_a_kept_prefix_changes_nothing() -> None:
    """The second answer to a prompt is the first."""
    engine = engine_of(options=EngineOptions(draft_tokens=0))
    first, second = (list(engine.generate(ask("again and again", PERSON, name))) for name in "ab")
    assert second[-1].usage.cached_tokens > 0
    assert text_of(first) == text_of(second)


def test_cut_off_says_so() -> None:
    """And what is there is the beginning of the whole."""
    whole = text_of(told(ask("who?", PERSON)))
    cut = told(ask("who?", PERSON, max_new_tokens=9))
    assert cut[-1].finish_reason is FinishReason.LENGTH
    assert whole.startswith(text_of(cut).rstrip("\ufffd"))
    exact = told(ask("who?", PERSON, max_new_tokens=len(whole.encode())))
    assert (text_of(exact), exact[-1].finish_reason) == (whole, FinishReason.STOP)


@pytest.mark.parametrize("steps", range(4, 40, 5))
def test_a_cancelled_answer_leaves_the_engine_usable(steps: int) -> None:
    """Wherever it was; the next one starts anew."""
    engine, cancel = engine_of(), CancelToken()
    gone = engine.start(ask("first", PERSON), cancel, 0.0)
    for _ in range(steps):
        engine.step()
    cancel.cancel()
    collect(engine, [gone])
    assert text_of(engine.generate(ask("second", PERSON))) == text_of(told(ask("second", PERSON)))


def test_a_model_that_likes_white_space_comes_to_an_end() -> None:
    """A line break or spaces may stand in front, and are not shown; inside, one space may follow a mark."""

    def blank(ids: Sequence[int]) -> Tensor:
        row = talkative(ids)
        row[list(b" \n\t")] += 9.0
        return row

    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}, "b": {"enum": [[1, 2]]}}}
    schema["required"] = ["a", "b"]
    events = told(ask("x", schema), blank)
    assert text_of(events).startswith('{"a": ')
    assert text_of(events).endswith('"b": [1, 2]}')
    assert events[-1].usage.completion_tokens == len(text_of(events)) + 4


def test_objects_hold_only_what_they_name() -> None:
    """Unless their schema speaks of others, or another schema lies over it."""

    def allows(schema: dict[str, Any], text: str) -> bool:
        grammar = Grammars(ByteTokenizer(), VOCAB, frozenset({256})).begin(json.dumps(schema))
        return grammar.fitting(list(text.encode())) == len(text)

    named: dict[str, Any] = {"properties": {"a": {"properties": {"b": {}}}}}
    assert allows(named, '{"a":{"b":1}}')
    assert not allows(named, '{"c":1')
    assert not allows(named, '{"a":{"c":1')
    for more in ({"additionalProperties": True}, {"required": ["c"]}, {"allOf": [{"properties": {"c": {}}}]}):
        assert allows({"type": "object", **named, **more}, '{"c":1'), more
    assert allows({"const": {"properties": {}}}, '{"properties":{}}')


def test_a_begun_answer_is_gone_on_with() -> None:
    """If it is the beginning of what fits."""

    class Begins(ByteTokenizer):
        """The last turn is the answer's beginning."""

        def encode_chat(self, messages: Sequence[Message]) -> EncodedPrompt:
            encoded = super().encode_chat(messages)
            return EncodedPrompt(encoded.ids[:-1], encoded.text, len(messages[-1].content.encode()))

    def begun(text: str) -> GenerationRequest:
        turns = (Message("user", "who?"), Message("assistant", text))
        params = GenerationParams(max_new_tokens=150)
        return GenerationRequest("r", messages=turns, params=params, json_schema=json.dumps(PERSON))

    engine, start = Engine(FakeModel(row=talkative), Begins(), OFF), '{"名字": "李'
    check_person(json.loads(start + text_of(engine.generate(begun(start)))))
    with pytest.raises(UnusableSchema, match="begun"):
        engine.prepare(begun('{"name'))


def test_chances_are_those_of_what_is_possible() -> None:
    """A token that the schema forbids is not among the likeliest."""
    events = told(ask("x", {"enum": ["ab", "cd"]}, logprobs=5))
    chances = {event.index: event.chances for event in events if isinstance(event, TokenEvent)}
    assert {one.spelling for one in chances[1][1:]} == {b"a", b"c"}
    assert sum(2.718281828**one.logprob for one in chances[1][1:]) == pytest.approx(1.0)


REFUSED = {
    "unknown keyword": ({"not": {}, "type": "string"}, "not"),
    "several": ({"type": "array", "uniqueItems": True, "contains": {}}, "contains, uniqueItems"),
    "overlapping": ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "anyOf"),
    "format": ({"type": "string", "format": "phone"}, "phone"),
    "pattern": ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
    "bounds": ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
    "wrong type": ({"type": "strng"}, "strng"),
    "reference": ({"$ref": "https://elsewhere.example/schema"}, "elsewhere"),
    "no such part": ({"type": "object", "properties": {"a": {"$ref": "#/$defs/b"}}}, "$ref #/$defs/b leads to no part"),
    "a part's own address": ({"items": {"$id": "b", "type": "array"}}, "$id"),
    "itself": ({"$ref": "#"}, "$ref leads in a circle"),
    "itself, inside": (
        {"type": "array", "items": {"$ref": "#/$defs/b"}, "$defs": {"b": {"$ref": "#/$defs/b"}}},
        "$ref",
    ),
    "each other": ({"allOf": [{"$ref": "#/$defs/b"}], "$defs": {"b": {"anyOf": [{"$ref": "#"}]}}}, "$ref"),
    "deeper without end": ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "$ref"),
    "lists without end": ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "$ref"),
    "beside a circle": ({"anyOf": [{"$ref": "#", "maxLength": 5}, {"type": "string"}]}, "beside a $ref"),
    "never": ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "unsatisfiable"),
    "none": ({"enum": []}, "empty"),
    "large": ({"enum": ["x" * 70_000]}, "64 KB"),
    "deep": (json.loads('{"items":' * 300 + "{}" + "}" * 300), "too deep"),
}


@pytest.mark.parametrize(("schema", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_kept_to_is_refused(schema: Any, why: str) -> None:
    """Before anything is computed, with the reason, in every language."""
    engine = engine_of()
    with pytest.raises(UnusableSchema) as caught:
        engine.prepare(ask("x", schema))
    assert why in str(caught.value)
    assert str(caught.value) != load_texts("zh").say(caught.value)
    assert "\n" not in str(caught.value)


ENDING = {
    "list": ({"type": "array", "items": {"$ref": "#"}, "maxItems": 1}, b"[]"),
    "object": ({"type": "object", "properties": {"a": {"$ref": "#"}}}, b"{}"),
    "choice": ({"anyOf": [{"$ref": "#"}, {"type": "integer"}]}, b"7"),
    "one of several types": (
        {"type": ["object", "null"], "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        b"null",
    ),
    "unused": ({"type": "integer", "$defs": {"a~/b": {"$ref": "#/$defs/a~0~1b"}}}, b"7"),
    "odd values": ({"minItems": 1e999, "required": 3, "type": 3, "allOf": 1, "properties": 4, "items": [[]]}, None),
}


@pytest.mark.parametrize(("schema", "answer"), ENDING.values(), ids=ENDING)
def test_references_that_come_to_an_end_are_kept_to(schema: Any, answer: bytes | None) -> None:
    """A circle with a way out is one that answers come out of; what is no schema has its own reason."""
    if answer is None:
        with pytest.raises(UnusableSchema, match="cannot be kept to"):
            engine_of().prepare(ask("x", schema))
        return
    assert text_of(told(ask("x", schema), script_row(answer, 1))) == answer.decode()


@pytest.mark.parametrize(
    ("text", "why"), [("{", "valid JSON"), ("[]", "object"), ("", "valid JSON"), ("true", "object")]
)
def test_what_is_no_schema_is_refused(text: str, why: str) -> None:
    """As a person may type it."""
    with pytest.raises(UnusableSchema) as caught:
        engine_of().prepare(GenerationRequest("r", prompt="x", json_schema=text))
    assert why in str(caught.value)


def test_a_grammar_that_fails_ends_its_own_answer_only() -> None:
    """Never a short answer that looks whole."""

    class Failing(ByteTokenizer):
        def encode_text(self, text: str) -> list[int]:
            if "fail" in text:
                raise ValueError
            return super().encode_text(text)

    engine = Engine(FakeModel(row=talkative), Failing(), OFF)
    schemas: dict[str, Any] = {"good": PERSON, "bad": {"enum": ["fail"]}}
    good, bad = (engine.start(ask("x", schema, name), CancelToken(), 0.0) for name, schema in schemas.items())
    results = collect(engine, [good, bad])
    assert isinstance(results[bad][-1], EngineFailure)
    assert text_of(results[good]) == text_of(told(ask("x", PERSON)))
    assert results[good][-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_control_ids_are_never_possible_but_at_the_end(family: tiny.Family, tmp_path: Path) -> None:
    """Of a vocabulary of its family; every id that spells the same is."""
    tokenizer = load_tokenizer(tiny.build_tokenizer(tmp_path / tiny.NAMES[family], family), family)
    size = tokenizer.vocab_size + 7  # logits may be wider than the vocabulary
    begin = Grammars(tokenizer, size, tokenizer.stop_ids).begin

    def possible(schema: str, written: str) -> set[int]:
        grammar = begin(schema)
        for token in written:
            grammar.accept(next(i for i in range(size) if tokenizer.spelling(i) == token.encode()))
        return set(grammar.mask(torch.zeros(size)).isfinite().nonzero().flatten().tolist())

    inside, outside = possible('{"type":"string"}', '"'), possible('{"type":"integer"}', "1")
    assert not inside & tokenizer.control_ids
    assert not inside & set(range(tokenizer.vocab_size, size))
    assert all(tokenizer.spelling(token) for token in inside)
    assert outside & tokenizer.control_ids == tokenizer.stop_ids
    twins = [token for token in range(tokenizer.vocab_size) if tokenizer.spelling(token) == b"a"]
    assert set(twins) <= inside
