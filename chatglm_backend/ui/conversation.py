"""A conversation on the page: its turns, what fits the model's context, and where one goes back to.

Pure functions over messages; counting tokens is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chatglm_backend.core import Message

__all__ = ["Fitted", "as_text", "as_typed", "back_to_user", "fit", "shown"]

# Code (closed, or still being written) and formulas are left alone; then a "<" that may open a tag.
_PROTECTED_OR_TAG = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|<(?=[A-Za-z/!?])", re.DOTALL)

Turns = tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Fitted:
    """The part of a conversation that is sent. ``dropped`` rounds were left out; ``used`` counts prompt tokens."""

    messages: Turns
    used: int
    dropped: int


def fit(messages: Turns, count: Callable[[Turns], int], limit: int, reserve: int) -> Fitted:
    """Leave whole rounds out, from the front, until the prompt and ``reserve`` tokens of answer fit ``limit``.

    A system message and the last question always stay, even where they alone are too long: the
    engine then says so.
    """
    system = messages[:1] if messages and messages[0].role == "system" else ()
    turns = messages[len(system) :]
    dropped = 0
    used = count(messages)
    while used + reserve > limit:
        following = next((i for i, message in enumerate(turns) if i and message.role == "user"), None)
        if following is None:
            break
        turns = turns[following:]
        dropped += 1
        used = count((*system, *turns))
    return Fitted((*system, *turns), used, dropped)


def back_to_user(messages: Turns, index: int) -> Turns:
    """The conversation up to and including the question at or before ``index``; empty if there is none."""
    for position in range(min(index, len(messages) - 1), -1, -1):
        if messages[position].role == "user":
            return messages[: position + 1]
    return ()


def shown(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The turns in the form that chat components take, with HTML outside code and formulas shown as text."""
    return [{"role": message.role, "content": as_text(message.content)} for message in messages]


def as_text(markdown: str) -> str:
    """Markdown whose tags are text: what a model or a visitor types as HTML is seen, not rendered."""
    return _PROTECTED_OR_TAG.sub(lambda found: "&lt;" if found.group() == "<" else found.group(), markdown)


def as_typed(markdown: str) -> str:
    """The way back from :func:`as_text`, for a turn that is edited."""
    return markdown.replace("&lt;", "<")
