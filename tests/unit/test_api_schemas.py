"""What requests of OpenAI's clients mean, and which are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from chatglm_backend.api.schemas import IDLE, ChatRequest, CompletionRequest
from chatglm_backend.core import GenerationParams, Message
from chatglm_backend.settings import Settings

ALL = 1_000_000
ASK: list[dict[str, Any]] = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ChatRequest:
    """A chat request with one question."""
    return ChatRequest.model_validate({"messages": ASK, **fields})


def completion(**fields: Any) -> CompletionRequest:
    """A request to complete one text."""
    return CompletionRequest.model_validate({"prompt": "x", **fields})


def params(**fields: Any) -> GenerationParams:
    """The generation parameters of a chat request."""
    body = chat(**fields)
    return body.params(Settings())


def test_what_is_left_open_comes_from_the_settings() -> None:
    """Greedy, as everywhere here, and as long as fits unless that is set."""
    assert params() == GenerationParams(max_new_tokens=ALL)
    for body in (chat(), completion()):
        assert [body.limit(Settings()), body.limit(Settings(max_new_tokens=7))] == [ALL, 7]


def test_all_parameters_arrive() -> None:
    """Each in its place."""
    numbers = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 3}
    numbers |= {"presence_penalty": 0.5, "frequency_penalty": -2}
    lists: dict[str, Any] = {"stop": ("a", "b"), "stop_ids": (5, 6), "logit_bias": ((7, -100.0), (8, 1.0))}
    expected = GenerationParams(**numbers, **lists, max_new_tokens=9, logprobs=3)  # type: ignore[arg-type]
    others = {"stop": ["a", "b"], "stop_token_ids": [5, 6], "logit_bias": {"7": -100, "8": 1}, "max_tokens": 9}
    assert params(**numbers, **others, logprobs=True, top_logprobs=3) == expected
    assert completion(**numbers, **others, logprobs=3).params(Settings()) == expected


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"max_tokens": 5}, "max_new_tokens", 5),
        ({"max_completion_tokens": 6}, "max_new_tokens", 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_new_tokens", 6),
        ({"max_tokens": None}, "max_new_tokens", ALL),
        ({"max_tokens": -1}, "max_new_tokens", ALL),
        ({"logprobs": True}, "logprobs", 0),
        ({"temperature": 0}, "greedy", True),
        ({"temperature": 1}, "temperature", 1),
        ({"stop": "。"}, "stop", ("。",)),
        ({"stop": None}, "stop", ()),
    ],
)
def test_fields_mean_what_they_mean_to_openai(fields: dict[str, Any], name: str, expected: object) -> None:
    """The newer name of the limit wins; zero, whole and negative numbers are allowed; one stop text needs no list."""
    assert getattr(params(**fields), name) == expected


def test_what_replies_hold_beside_may_be_sent_back() -> None:
    """Clients send an assistant's message as they got it."""
    said = {"role": "assistant", "content": "a", "refusal": None, "annotations": [], "name": "x"}
    assert chat(messages=[*ASK, said, *ASK]).messages[1].message() == Message("assistant", "a")


def test_messages_may_be_text_or_text_parts() -> None:
    """Parts are joined; a developer is a system message; an assistant may have said nothing."""
    body = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "assistant", "content": None},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b\n"}]},
        ]
    )
    assert [message.message() for message in body.messages] == [
        Message("system", "be brief"),
        Message("assistant", ""),
        Message("user", "ab\n"),
    ]


def schema(**fields: Any) -> dict[str, Any]:
    """What asks for an answer that fits a schema."""
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}, **fields}}


REFUSED: list[tuple[str, str, list[Any]]] = [
    ("n", "n", [0, 9, "2"]),
    ("nonsense", "nonsense", [1, None]),
    ("stream_options", "include_usag", [{"include_usag": True}]),
    ("logit_bias", "-100 to 100", [{"1": 101}, {"a": 1}, {"1": None}, {"-1": 1}]),
    ("logit_bias", "token ids", [[1], 5]),
    ("stop_token_ids", "stop_token_ids", [[-1], ["a"], 5, [0] * 65]),
    ("top_logprobs", "logprobs", [3]),
    ("presence_penalty", "presence_penalty", [2.1]),
    ("tools", "tools", [[{"type": "function"}]]),
    ("functions", "use tools", [[{}]]),
    ("function_call", "use tool_choice", ["auto", {"name": "f"}]),
    ("messages", "older form", [[{"role": "function", "name": "f", "content": "x"}]]),
    ("messages", "older form", [[{"role": "assistant", "content": None, "function_call": {"name": "f"}}]]),
    ("response_format", "type", [{"type": "xml"}, {}]),
    (
        "response_format",
        "is needed",
        [{"type": "json_schema"}, {"type": "text", "json_schema": {"name": "a", "schema": {}}}],
    ),
    ("response_format", "dictionary", ["json", schema(schema=True)]),
    ("response_format", "name", [{"type": "json_schema", "json_schema": {"schema": {}}}, schema(name="a b")]),
    ("response_format", "'schema'", [{"type": "json_schema", "json_schema": {"name": "a"}}]),
    ("response_format", "strict", [schema(strict="yes")]),
    ("response_format", "more", [schema(more=1), {"type": "json_object", "more": 1}]),
    ("logprobs", "logprobs", [5]),
    ("modalities", "modalities", [["audio"]]),
    ("messages", "messages", [[], "hello"]),
    ("messages", "role", [[{"role": "robot", "content": "x"}]]),
    ("tools", "letters", [[{"type": "function", "function": {"name": name}}] for name in ("", "a b", "a\n", "工具")]),
    ("tools", "JSON schema", [[{"type": "function", "function": {"name": "f", "parameters": "x"}}]]),
    ("tool_choice", "tool_choice", ["f", {"type": "function"}]),
    ("content", "pictures", [[{"type": "image_url"}]]),
    ("content", "text parts", [5]),
    ("content", "surrogate", ["a\ud800", [{"type": "text", "text": "\udfff"}]]),
    ("stop", "surrogate", ["\ud800"]),
    ("stop", "empty", [[""]]),
    ("stop", "at most 16", [["x"] * 17]),
    ("stop", "256", ["x" * 300]),
    ("stop", "stop", [{"a": 1}]),
    ("temperature", "temperature", ["hot", True]),
    ("max_tokens", "max_tokens", [10**30, 0, -2]),
    ("seed", "seed", [1.5]),
    ("model", "unicode", ["\ud800"]),
]
"""A field, what the refusal says, and the values that get it; ``content`` is the last message's."""


@pytest.mark.parametrize(
    ("field", "word", "value"), [(f, word, value) for f, word, values in REFUSED for value in values]
)
def test_what_cannot_be_served_says_why(field: str, word: str, value: Any) -> None:
    """The sentence or the place names it."""
    with pytest.raises(ValidationError) as caught:
        chat(**({"messages": [{"role": "user", "content": value}]} if field == "content" else {field: value}))
    assert word in str([(error["loc"], error["msg"]) for error in caught.value.errors()])


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []}, {"n": 1}, {"response_format": {"type": "text"}}, {"logprobs": False}, {"logit_bias": {}},
        {"user": "me", "metadata": {"a": 1}, "store": True, "parallel_tool_calls": False, "service_tier": "auto"},
    ],
)  # fmt: skip
def test_what_asks_for_nothing_more_is_no_fault(fields: dict[str, Any]) -> None:
    """Many clients send these always."""
    assert params(**fields) == params()


def test_what_the_documents_call_idle_is_accepted() -> None:
    """The table's row holds every such field, and nothing else."""
    found = {
        name
        for kind in (ChatRequest, CompletionRequest)
        for name, field in kind.model_fields.items()
        if field.description == IDLE
    }
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if line.endswith("| accepted; they ask for nothing here |"))
    assert set(re.findall("`([a-z_]+)`", row)) == found
    assert params(**dict.fromkeys(found, "anything")) == params()


@pytest.mark.parametrize(
    "prompt", [[], ["a"] * 129, [1, 2], [[1]], 5, None, "\ud800"], ids=lambda value: repr(value)[:20]
)
def test_a_completion_has_texts(prompt: object) -> None:
    """No token ids."""
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate({"prompt": prompt})


@pytest.mark.parametrize("fields", [{"best_of": 2}, {"suffix": "x"}])
def test_old_ways_of_completing_are_refused(fields: dict[str, Any]) -> None:
    """They are not silently left out."""
    with pytest.raises(ValidationError, match=r"suffix|best_of"):
        CompletionRequest.model_validate({"prompt": "x", **fields})


def test_a_prompt_is_a_list_of_one() -> None:
    """And several are several."""
    assert completion().prompt == ("x",)
    assert completion(prompt=["x", "y"], echo=True).echoes == ("x", "y")


def test_json_is_asked_for_with_a_schema_or_without() -> None:
    """Also in completions; text is what there is anyway."""
    assert completion(response_format={"type": "json_object"}).json_schema == '{"type": "object"}'
    assert chat(response_format=schema(strict=True, description="x")).json_schema == '{"type": "integer"}'
    assert chat(response_format={"type": "text"}).json_schema is None
    assert chat(response_format=None).json_schema is None
