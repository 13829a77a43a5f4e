"""Tools in text: how ChatGLM3 is offered them and writes calls, and how a reply's calls are read.

A part of a reply begins with its first line: empty for text, a tool's name for a call. Its arguments are ChatGLM3's
``tool_call(name=literal, …)``, or JSON, as GLM-4 writes them. They are never evaluated. Knows no ids.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chatglm_backend.tokenizers.code import is_base
from chatglm_backend.tokenizers.template import read_template

_OFFER: Final = (
    "Answer the following questions as best as you can. You have access to the following tools:\n"  # the model's own
)
TOOL_NAME: Final = "^[a-zA-Z0-9_-]{1,64}$"
_USUAL_CONTEXT: Final = 8192
_LONGEST_CALL: Final = 16 * 1024
_FENCED: Final = re.compile(r"```[a-z]*\s*\n(.*)\n\s*```", re.DOTALL)
# Strings are passed over; a parameter's name may be a word that Python keeps for itself, or no name there at all.
_PARAMETER: Final = re.compile(
    r"""'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|(?<=[\s,(])([^\s,()\[\]{}'"=]+)(?=\s*=)""",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool's name and its ``arguments``, a JSON object as text."""

    name: str
    arguments: str


def calls_tools(family: str, name: str, context_limit: int, folder: Path) -> bool:
    """Whether a model was trained to call tools.

    Of ChatGLM3-6B only the chat model with its usual context was; of GLM-4, those whose ``folder`` has a template that
    says how they are offered.
    """
    if is_base(name):
        return False
    if family == "glm4":
        template = read_template(folder)
        return template is not None and template.takes_tools
    return family == "chatglm3" and context_limit <= _USUAL_CONTEXT


def offer_text(tools: Sequence[Mapping[str, object]]) -> str:
    """The content of an offer of ``tools``, each with ``name``, ``description`` and ``parameters``."""
    return json.dumps(tools, ensure_ascii=False)


def tools_text(offer: str) -> str:
    """The system message by which ChatGLM3 is offered tools."""
    return _OFFER + json.dumps(json.loads(offer), indent=4, ensure_ascii=False)


def call_text(content: str) -> str:
    """A call as ChatGLM3 writes it, below the line with the tool's name; what is no JSON object stays as it is."""
    try:
        arguments = json.loads(content)
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        return content
    return f"```python\ntool_call({', '.join(f'{name}={value!r}' for name, value in arguments.items())})\n```"


class ReplyReader:
    """Parts a reply to an offer of tools into text, passed on as it comes, and ``calls``.

    A call that names no tool or cannot be read is text. White space around a part is dropped, but not in front of
    the rest of a text that is ``begun``.
    """

    def __init__(self, names: Iterable[str], *, begun: bool = False) -> None:
        self.calls: list[ToolCall] = []
        self._names = tuple(names)
        self._held = ""
        self._is_text = self._begun = self._said = begun

    def add(self, text: str, *, ends_part: bool = False) -> str:
        """Take more of the reply, the last of a part where it ``ends_part``, and return the text that is certain."""
        self._held += text
        if ends_part:
            return self.finish()
        if not self._is_text:
            line, line_break, _ = self._held.partition("\n")
            name = line.strip()
            if name in self._names if line_break else any(known.startswith(name) for known in self._names):
                return ""
            self._is_text = True
        return self._pass_on()

    def finish(self) -> str:
        """End the part; return what was held back if it was no call."""
        name, _, body = self._held.partition("\n")
        arguments = None if self._is_text or name.strip() not in self._names else _arguments(body)
        if arguments is not None:
            self.calls.append(ToolCall(name.strip(), arguments))
            self._held = ""
        text = self._pass_on()
        self._held, self._is_text, self._begun = "", False, False
        return text

    def _pass_on(self) -> str:
        text = self._held.rstrip()
        self._held = self._held[len(text) :]
        if self._begun or not text:
            return text
        text = text.lstrip()
        if self._said:
            text = "\n" + text
        self._begun = self._said = True
        return text


def _arguments(body: str) -> str | None:
    """The arguments of a call as JSON; ``None`` for anything else."""
    if len(body) > _LONGEST_CALL:
        return None
    try:
        values = json.loads(body) if body.lstrip().startswith("{") else _literals(body)
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        text.encode()  # half of a character cannot be sent
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return text if isinstance(values, dict) else None


def _literals(body: str) -> dict[str, Any] | None:
    """The arguments of a fenced ``tool_call(name=literal, …)``; ``None`` or an error of parsing for anything else."""
    fenced = _FENCED.fullmatch(body.strip())
    if fenced is None:
        return None
    names: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        names.append(found[1])
        return f"p{len(names)}"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd escapes in strings
        call = ast.parse(_PARAMETER.sub(numbered, fenced[1].strip()), mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id != "tool_call":
        return None
    found = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    if call.args or [*found] != [f"p{number}" for number in range(1, len(names) + 1)] or len(set(names)) < len(names):
        return None
    return dict(zip(names, found.values(), strict=True))
