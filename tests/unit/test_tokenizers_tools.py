"""Tools in ChatGLM3's own form: what a reply's parts are read as, without a model and without a vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatglm_backend.tokenizers.tools import ReplyReader, ToolCall, call_text, calls_tools

CASES: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "tool_cases.json").read_text(encoding="utf-8")
)
ASSISTANT_ID = 64796


def read(parts: list[str], names: list[str], size: int = 1) -> tuple[str, list[ToolCall]]:
    """The text and the calls of a reply that comes in pieces of ``size`` characters."""
    reader = ReplyReader(names)
    text = ""
    for number, part in enumerate(parts, start=1):
        for start in range(0, len(part), size):
            text += reader.add(part[start : start + size])
        text += reader.add("", ends_part=True) if number < len(parts) else reader.finish()
    return text, reader.calls


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("case", CASES["replies"], ids=lambda case: case["name"])
def test_recorded_replies_are_read_as_the_authors_read_them(case: dict[str, Any], size: int) -> None:
    """But for tools that nobody offered and for a role that was typed: these are text, as is what cannot be read."""
    written, expected = case["decoded"], case["expected"]
    text, calls = read(
        written.split("<|assistant|>") if ASSISTANT_ID in case["output_ids"] else [written], case["tools"], size
    )
    if expected["call"] and expected["known_tool"]:
        thought = "".join(turn["content"] for turn in expected["messages"] if not turn["metadata"])
        assert (text, [call.name for call in calls]) == (thought, [expected["call"]["name"]])
        assert json.loads(calls[0].arguments) == expected["call"]["arguments"]
    else:
        assert (text, calls) == (written.strip(), [])


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ("from='a', user-id=3, 城市='b'", {"from": "a", "user-id": 3, "城市": "b"}),
        ("a='x, from=3', b = \"y=(\"", {"a": "x, from=3", "b": "y=("}),
        ("a={'b=': 1, 'c': [True, None]}", {"a": {"b=": 1, "c": [True, None]}}),
        ("a='''x\ny=1'''", {"a": "x\ny=1"}),
        (r"a='\d'", {"a": r"\d"}),
    ],
)
def test_arguments_are_read(arguments: str, values: dict[str, Any]) -> None:
    """Names may be what Python has other uses for; what a string holds is only a string."""
    _, (call,) = read([f"f\n```python\ntool_call({arguments})\n```"], ["f"])
    assert json.loads(call.arguments) == values
    for written in (call_text(call.arguments), call.arguments):
        assert read([f"f\n{written}"], ["f"]) == ("", [call])


@pytest.mark.parametrize(
    "written",
    [
        "tool_call(a=__import__('os'))", "tool_call(1)", "tool_call(**{'a': 1})", "tool_call(a=1, a=2)", "f(a=1)",
        "x.tool_call()", "tool_call(a=f(b=1))", "tool_call(a=1); tool_call()", "tool_call(a=f'{1}')",
        "tool_call(a=b'x')", "tool_call(a={1})", "tool_call(a=1j)", "tool_call(a=1e999)",
        r"tool_call(a='\ud800')", "tool_call(a='x\0')",
        f"tool_call(a={'[' * 5000})", f"tool_call(a={'-' * 9000}1)", f"tool_call(a={'9' * 6000})",
        f"tool_call(a='{'x' * 20_000}')", "tool_call(a=1", "",
    ],
    ids=lambda written: written[:30],
)  # fmt: skip
def test_what_is_no_call_is_text(written: str) -> None:
    """Nothing is run, however it is written; nothing is lost."""
    reply = f"f\n ```python\n{written}\n```"
    assert read([reply], ["f"]) == (reply, [])


@pytest.mark.parametrize(
    "written",
    ["[1]", "1", "null", '{"a": 1', '{"a": 1} so', '{"a": NaN}', r'{"a": "\ud800"}', '{"a":' * 9000, "{'a': 1}"],
    ids=lambda written: written[:12],
)  # fmt: skip
def test_json_that_is_no_call_is_text(written: str) -> None:
    """Only one whole object is a call's arguments."""
    assert read([f"f\n{written}"], ["f"]) == (f"f\n{written}", [])


def test_a_call_as_chatglm3_writes_it() -> None:
    """Of JSON, literals; what is none stays as it is."""
    assert call_text('{"a": "字", "b": [true, null]}') == "```python\ntool_call(a='字', b=[True, None])\n```"
    assert call_text(" ```") == " ```"


def test_text_is_passed_on_as_soon_as_it_is_no_call() -> None:
    """At the line break of a first line that is empty, or where it can be no tool's name any more."""
    reader = ReplyReader(["get_weather"])
    assert [reader.add(piece) for piece in ("\n", " Hello", " you", " \n", "all")] == [
        "",
        "Hello",
        " you",
        "",
        " \nall",
    ]
    assert reader.add("", ends_part=True) == ""
    assert [reader.add(piece) for piece in ("get", "_away", " now")] == ["", "\nget_away", " now"]
    assert ReplyReader(["f"], begun=True).add(" f\nx") == " f\nx"


@pytest.mark.parametrize(
    ("family", "name", "context", "able"),
    [
        ("chatglm3", "THUDM/chatglm3-6b", 8192, True),
        ("chatglm3", "my-base", 8192, True),
        ("chatglm3", "chatglm3-6b-base", 8192, False),
        ("chatglm3", "chatglm3-6b-32k", 32768, False),
        ("chatglm2", "chatglm2-6b", 8192, False),
    ],
)
def test_who_calls_tools(family: str, name: str, context: int, able: bool) -> None:
    """Its authors trained one model for them."""
    assert calls_tools(family, name, context, Path()) is able
