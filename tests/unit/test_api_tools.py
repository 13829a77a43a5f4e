"""Tools of OpenAI's clients: what the model is shown of them, and which histories are refused."""

from __future__ import annotations

from typing import Any

import pytest

from chatglm_backend.api.schemas import ChatRequest
from chatglm_backend.api.tools import conversation, offered
from chatglm_backend.core import Message, Offer
from chatglm_backend.errors import InvalidRequest
from chatglm_backend.tokenizers.tools import offer_text

USER = {"role": "user", "content": "q"}
SHOWN = {"description": "d", "name": "f", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": {**SHOWN, "strict": True}}, {"type": "function", "function": {"name": "g"}}]


def call(name: str, arguments: str = '{"a": "字", "b": [true, null]}') -> dict[str, Any]:
    """A call in the history; its id is its tool's name."""
    return {"id": name, "type": "function", "function": {"name": name, "arguments": arguments}}


def asked(*calls: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    """An assistant's message with calls."""
    return {"role": "assistant", "content": content, "tool_calls": [*calls]}


def result(name: str) -> dict[str, Any]:
    """The result of a tool."""
    return {"role": "tool", "tool_call_id": name, "content": f"result of {name}"}


def turns(*messages: dict[str, Any], **fields: Any) -> tuple[Message, ...]:
    """What the model is shown of a request."""
    body = ChatRequest.model_validate({"messages": [*messages], **fields})
    return conversation(body.messages, offered(body.tools or (), body.tool_choice)[0])


def test_the_offer_comes_first_and_the_clients_own_system_message_is_kept() -> None:
    """In the client's order, without ``strict``; nothing is offered where nothing may be called."""
    offer = Offer("system", offer_text([SHOWN, {"name": "g"}]))
    system = {"role": "system", "content": "s"}
    assert turns(system, USER, tools=TOOLS) == (offer, Message("system", "s"), Message("user", "q"))
    assert turns(USER, tools=TOOLS, tool_choice="none") == (Message("user", "q"),)


def test_each_call_stands_before_its_result() -> None:
    """However many one message makes, in the results' order; what was said with them comes first."""
    found = turns(USER, asked(call("f"), call("g", ""), content="I look."), result("g"), result("f"))
    assert found[1:] == (
        Message("assistant", "I look."), Message("assistant", "{}", "g"), Message("tool", "result of g"),
        Message("assistant", '{"a": "字", "b": [true, null]}', "f"), Message("tool", "result of f"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("messages", "word"),
    [
        ((USER, result("f")), "no call"),
        ((USER, asked(call("f")), result("f"), result("f")), "no call"),
        ((USER, asked(call("f")), USER), "missing"),
        ((USER, asked(call("f"), call("g")), result("f")), "missing"),
        ((USER, asked(call("f"), call("f")), result("f")), "different ids"),
        ((USER, asked(call("f", "[1]")), result("f")), "JSON object"),
        ((USER, asked(call("f", "{")), result("f")), "JSON object"),
        ((USER, asked(call("f", f'{{"a": {"[" * 100_000}')), result("f")), "JSON object"),
        ((USER, {**asked(call("f")), "role": "user"}, result("f")), "assistant"),
    ],
)
def test_calls_and_results_that_do_not_belong_together_are_refused(messages: tuple[Any, ...], word: str) -> None:
    """The sentence says which it is."""
    with pytest.raises(InvalidRequest, match=word):
        turns(*messages)


@pytest.mark.parametrize(
    ("choice", "openings"),
    [
        ("auto", ()),
        (None, ()),
        ("required", ("f\n", "g\n")),
        ({"type": "function", "function": {"name": "g"}}, ("g\n",)),
    ],
)
def test_a_choice_is_how_the_answer_begins(choice: Any, openings: tuple[str, ...]) -> None:
    """With the name of one of the tools, of all or of the one that is named."""
    body = ChatRequest.model_validate({"messages": [USER], "tools": TOOLS, "tool_choice": choice})
    assert offered(body.tools or (), body.tool_choice)[1] == openings


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "h"}}])
def test_what_is_not_offered_cannot_be_chosen(choice: Any) -> None:
    """Neither something of nothing, nor a name that is not there."""
    tools = TOOLS if isinstance(choice, dict) else []
    body = ChatRequest.model_validate({"messages": [USER], "tools": tools, "tool_choice": choice})
    with pytest.raises(InvalidRequest, match="tool_choice"):
        offered(body.tools or (), body.tool_choice)
