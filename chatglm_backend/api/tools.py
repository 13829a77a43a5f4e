"""Tools in OpenAI's form: offers, choices, calls and results in requests, and calls in replies.

What a model makes of them is :mod:`chatglm_backend.tokenizers.tools`. Knows no HTTP.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from chatglm_backend.core import Completed, Event, Message, Offer, Role, TokenEvent
from chatglm_backend.errors import InvalidRequest
from chatglm_backend.sentences import Sentence
from chatglm_backend.tokenizers.tools import ReplyReader, ToolCall, offer_text

NAME = "^[a-zA-Z0-9_-]{1,64}$"
_OFFER_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": NAME},
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"]},
    },
    "required": ["name"],
}


def _offer(function: dict[str, Any]) -> dict[str, Any]:
    """As the model is shown it: in the client's order, without what is no part of it."""
    kinds: dict[str, type] = {"name": str, "description": str, "parameters": dict}
    shown = {name: value for name, value in function.items() if name in kinds and value is not None}
    if not all(isinstance(value, kinds[name]) for name, value in shown.items()):
        raise ValueError("name and description are texts, parameters is a JSON schema")
    if not re.fullmatch(NAME, shown.get("name", "")):
        raise ValueError("its name has 1 to 64 letters, digits, - and _")
    return shown


class _Strict(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Tool(_Strict):
    """A function that may be called."""

    type: Literal["function"]
    function: Annotated[dict[str, Any], AfterValidator(_offer), WithJsonSchema(_OFFER_SCHEMA)]


class _Chosen(_Strict):
    name: Annotated[str, Field(pattern=NAME)]


class _Called(_Chosen):
    arguments: str = ""


class NamedChoice(_Strict):
    """The one function that must be called."""

    type: Literal["function"]
    function: _Chosen


class EarlierCall(_Strict):
    """A call in the history."""

    id: str
    type: Literal["function"] = "function"
    function: _Called


class Turn(_Strict):
    """One turn; ``developer`` is another word for ``system``."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str = ""
    tool_calls: list[EarlierCall] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_today(cls, given: object) -> object:
        if isinstance(given, Mapping) and (given.get("role") == "function" or given.get("function_call") is not None):
            raise ValueError("function_call and the role function are OpenAI's older form; use tool_calls and tool")
        return given

    def message(self) -> Message:
        """In our own words, without its calls."""
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, self.content)


Tools = Annotated[list[Tool], Field(max_length=128)]
ToolChoice = Literal["none", "auto", "required"] | NamedChoice


def offered(tools: Sequence[Tool], choice: ToolChoice | None) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """What to show the model of ``tools``, and with which texts its answer must begin. Raises InvalidRequest."""
    if choice == "none":
        return [], ()
    functions = [tool.function for tool in tools]
    names = [function["name"] for function in functions]
    if choice in (None, "auto"):
        return functions, ()
    if isinstance(choice, NamedChoice):
        names = [name for name in names if name == choice.function.name]
    if not names:
        wanted = choice.function.name if isinstance(choice, NamedChoice) else choice
        raise InvalidRequest(field="tool_choice", value=wanted, reason=Sentence("request.tool_not_offered"))
    return functions, tuple(f"{name}\n" for name in names)


def conversation(messages: Sequence[Turn], functions: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """The turns as the model reads them: the offer first, and each call directly before its result.

    Raises InvalidRequest where a call and a result do not belong together.
    """
    turns: list[Message] = []
    waiting: dict[str, Message] = {}
    for message in messages:
        if message.role == "tool":
            call = waiting.pop(message.tool_call_id or "", None)
            if call is None:
                _refuse(
                    message.tool_call_id or "a result without tool_call_id", Sentence("request.result_without_call")
                )
            turns += [call, message.message()]
            continue
        _all_answered(waiting)
        calls = message.tool_calls or []
        if calls and message.role != "assistant":
            _refuse(message.role, Sentence("request.who_calls"))
        waiting = {call.id: _call(call.function) for call in calls}
        if len(waiting) < len(calls):
            _refuse(calls[0].id, Sentence("request.calls_of_one_id"))
        if message.content or not waiting:
            turns.append(message.message())
    _all_answered(waiting)
    if functions:
        turns.insert(0, Offer("system", offer_text(functions)))
    return tuple(turns)


def text_of(event: Event, reader: ReplyReader | None) -> str:
    """What an event adds to an answer's text, where a ``reader`` parts it from calls of tools."""
    if not isinstance(event, (TokenEvent, Completed)):
        return ""
    if reader is None:
        return event.text
    if isinstance(event, TokenEvent):
        return reader.add(event.text, ends_part=event.ends_part)
    return reader.add(event.text) + reader.finish()


def message_fields(text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    """What a whole reply's message holds: ``content``, and ``tool_calls`` if there are any."""
    if not calls:
        return {"content": text}
    return {"content": text or None, "tool_calls": [_entry(call) for call in calls]}


def deltas(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """What the chunks of a stream hold: of each call first the name, then its arguments."""
    found = []
    for index, call in enumerate(calls):
        entry = _entry(call)
        function, entry["function"] = entry["function"], {"name": call.name, "arguments": ""}
        arguments = {"index": index, "function": {"arguments": function["arguments"]}}
        found += [{"tool_calls": [{"index": index, **entry}]}, {"tool_calls": [arguments]}]
    return found


def _entry(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


def _call(called: _Called) -> Message:
    try:
        arguments = json.loads(called.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        _refuse(called.arguments, Sentence("request.arguments"))
    return Message("assistant", json.dumps(arguments, ensure_ascii=False), called.name)


def _all_answered(waiting: Mapping[str, Message]) -> None:
    for name in waiting:
        _refuse(name, Sentence("request.call_without_result"))


def _refuse(value: str | None, reason: Sentence) -> NoReturn:
    raise InvalidRequest(field="messages", value=value, reason=reason)
