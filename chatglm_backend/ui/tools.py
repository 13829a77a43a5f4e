"""Tools on the Chat page: what may be called, calls and results as folded cards, and what the model is given of them.

Nothing is ever run here: whoever sits at the page does what a call asks for, and sends its result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from pydantic import TypeAdapter, ValidationError

from chatglm_backend.api.tools import Tools, Turn, conversation
from chatglm_backend.core import Message
from chatglm_backend.errors import InvalidRequest
from chatglm_backend.sentences import Sentence, Texts
from chatglm_backend.store.records import Calling
from chatglm_backend.textfile import parse_json
from chatglm_backend.tokenizers.tools import ToolCall
from chatglm_backend.ui.conversation import Turns

_FENCED = re.compile(r"^(`{3,})[a-z]*\n(.*)\n\1$", re.DOTALL | re.MULTILINE)


def read_tools(text: str) -> list[dict[str, Any]]:
    """The functions of a JSON list, each bare or in OpenAI's form; none for an empty text. Raises InvalidRequest."""
    if not text.strip():
        return []
    try:
        given = parse_json(text.encode("utf-8", "replace"))
        if not isinstance(given, list):
            raise ValueError("no list")
        tools = [one if "function" in one else {"type": "function", "function": one} for one in given]
        return [tool.function for tool in TypeAdapter(Tools).validate_python(tools)]
    except (ValidationError, ValueError, TypeError) as error:
        shown = text.strip()[:30]
        raise InvalidRequest(field="tools", value=shown, reason=Sentence("request.tools_json")) from error


def to_send(turns: Turns, system: str, functions: Sequence[Mapping[str, Any]]) -> Turns:
    """The conversation as the model reads it. A call that has no result is left out. Raises InvalidRequest."""
    given = [Turn(role="system", content=system)] if system.strip() else []
    for position, turn in enumerate(turns):
        if not isinstance(turn, Calling):
            given.append(Turn(role=turn.role, content=turn.content, tool_call_id=_waiting(turns, position)))
            continue
        answered = [i for i in range(len(turn.calls)) if _is_result(turns, position + 1 + i)]
        calls = [
            {"id": f"{position}-{i}", "function": {"name": turn.calls[i].name, "arguments": turn.calls[i].arguments}}
            for i in answered
        ]
        if calls or turn.content:
            given.append(Turn.model_validate({"role": "assistant", "content": turn.content, "tool_calls": calls}))
    return conversation(given, functions)


def cards(texts: Texts, turn: Message, last: bool) -> list[str]:  # noqa: FBT001
    """A turn's calls, or the result that it is, as Markdown; nothing for any other turn.

    Under a call that is the ``last`` of all stands what to do.
    """
    if turn.role == "tool":
        return [_card(texts("chat.result"), turn.content)]
    calls = turn.calls if isinstance(turn, Calling) else ()
    found = [_card(texts("chat.call", name=call.name), _pretty(call), "json") for call in calls]
    return [*found, f'<span class="cg-cut">{escape(texts("chat.call_next"))}</span>'] if found and last else found


def card_content(markdown: str) -> str:
    """What a card shows, also where it was edited; a text without one is itself."""
    found = _FENCED.search(markdown)
    return markdown if found is None else found.group(2)


def _card(title: str, content: str, language: str = "") -> str:
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", content)), default=0))
    code = f"{fence}{language}\n{content}\n{fence}"
    return f'<details class="cg-card"><summary>{escape(title)}</summary>\n\n{code}\n\n</details>'


def _pretty(call: ToolCall) -> str:
    try:
        return json.dumps(json.loads(call.arguments), ensure_ascii=False, indent=2)
    except ValueError:
        return call.arguments


def _is_result(turns: Turns, position: int) -> bool:
    return position < len(turns) and turns[position].role == "tool"


def _waiting(turns: Turns, position: int) -> str | None:
    """The id of the call whose result stands at ``position``: results follow their calls in order."""
    start = position
    while start > 0 and turns[start].role == "tool":
        start -= 1
    return f"{start}-{position - start - 1}" if turns[position].role == "tool" else None
