"""A folder's chat template, in a sandbox: it lays a conversation out, and never sees what was said.

Marks stand in for the messages' contents, so that no content is read as part of the template's form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

from chatglm_backend.core import Message
from chatglm_backend.errors import DamagedFile, InvalidRequest
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json

if TYPE_CHECKING:
    from jinja2 import Template

_FILE: Final = "chat_template.jinja"
_CONFIG: Final = "tokenizer_config.json"
_MOST_CHARACTERS: Final = 1_000_000
_SOME_NAME: Final = "some_name_of_a_tool"
_MARK: Final = re.compile("\ue000([0-9]+)\ue001")


class ChatTemplate:
    """One template of transformers' kind."""

    def __init__(self, source: str, path: Path) -> None:
        """Raises DamagedFile where it is no template or cannot lay out a question."""
        import jinja2

        self._failed = jinja2.TemplateError
        self.source = source
        try:
            self._template = _compiled(source)
            self._render([Message("user", "?")])
        except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as error:
            raise DamagedFile(path=path, reason=Sentence("file.template", problem=str(error)[:200])) from error

    @cached_property
    def takes_tools(self) -> bool:
        """Whether it shows the tools that it is given."""
        return any(self._shows_tools(in_front=in_front) for in_front in (False, True))

    def lay_out(self, messages: Sequence[Message], tools: Sequence[object] = ()) -> list[str | Message]:
        """The template's own text, with ``tools``, and the messages whose contents stand between, open for an answer.

        A tool is in OpenAI's form. Raises InvalidRequest where the template refuses the conversation or leaves a
        message out, or the tools.
        """
        if tools and not self.takes_tools:
            raise _refused(Sentence("request.template_left_out"))
        try:
            parts = self._render(messages, tools, in_front=not self._shows_tools(in_front=False))
        except (self._failed, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise _refused(Sentence("request.template", problem=str(error)[:200])) from error
        told = [part for part in parts if isinstance(part, Message)]
        if sum(bool(message.content) for message in messages) != len(told):
            raise _refused(Sentence("request.template_left_out"))
        return parts

    def _shows_tools(self, *, in_front: bool) -> bool:
        function = {"name": _SOME_NAME, "description": "?", "parameters": {"type": "object", "properties": {}}}
        try:
            parts = self._render(
                [Message("user", "?")], [{"type": "function", "function": function}], in_front=in_front
            )
        except (self._failed, ArithmeticError, LookupError, TypeError, ValueError):
            return False
        return any(isinstance(part, str) and _SOME_NAME in part for part in parts)

    def _render(
        self, messages: Sequence[Message], tools: Sequence[object] = (), *, in_front: bool = False
    ) -> list[str | Message]:
        """Templates take tools beside the messages, as transformers gives them, or in a first message of their own."""
        asked: list[dict[str, object]] = [
            {
                "role": "observation" if one.role == "tool" else one.role,
                "metadata": one.tool,
                "content": f"\ue000{at}\ue001" if one.content else "",
            }
            for at, one in enumerate(messages)
        ]
        given: dict[str, object] = {} if in_front or not tools else {"tools": tools}
        if tools and in_front:
            asked.insert(0, {"role": "system", "metadata": "", "content": "", "tools": tools})
        pieces = _MARK.split(self._template.render(messages=asked, add_generation_prompt=True, **given))
        return [messages[int(piece)] if at % 2 else piece for at, piece in enumerate(pieces)]


def read_template(folder: Path) -> ChatTemplate | None:
    """The template that a folder has, in a file of its own or in the tokenizer's config. Raises DamagedFile."""
    path = folder / _FILE
    try:
        with path.open(encoding="utf-8") as file:
            source: object = file.read(_MOST_CHARACTERS)
    except OSError:
        path = folder / _CONFIG
        source = read_json(path, optional=True).get("chat_template")
    except UnicodeDecodeError as error:
        raise DamagedFile(path=path, reason=Sentence("file.template", problem=str(error)[:200])) from error
    if isinstance(source, list):
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    return ChatTemplate(source, path) if isinstance(source, str) and source else None


def _compiled(source: str) -> Template:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    return environment.from_string(source)


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:  # noqa: FBT001, FBT002
    """As transformers has it: readable, and not escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


def _refused(reason: Sentence) -> InvalidRequest:
    return InvalidRequest(field="messages", value=Sentence("value.these_messages"), reason=reason)
