"""A conversation on the page: its turns, what fits the model's context, and where one goes back to.

Pure functions over messages; counting tokens is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from chatglm_backend.core import Message
from chatglm_backend.documents.passages import Sources
from chatglm_backend.store.records import Sourced
from chatglm_backend.ui.markdown import as_text, closing_fence, pieces

Turns = tuple[Message, ...]

SYSTEM_FAMILIES = frozenset({"chatglm3", "glm4"})
"""Families whose chat format has a system message."""


ASKING = frozenset({"user", "tool"})
"""The roles that are answered."""


@dataclass(frozen=True, slots=True)
class Interrupted(Sourced):
    """An answer that ended before its end: stopped, broken off, or cut by a restart."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """The part of a conversation that is sent. ``dropped`` rounds were left out; ``used`` counts prompt tokens.

    ``sources`` say what it holds of documents.
    """

    messages: Turns
    used: int
    dropped: int
    sources: Sources | None = None


def fit(messages: Turns, count: Callable[[Turns], int], limit: int, reserve: int, rounds: int = 0) -> Fitted:
    """Leave whole rounds out, from the front, until the prompt and ``reserve`` tokens of answer fit ``limit``.

    Before the question at most ``rounds`` rounds are left, 0: all that fit.

    System messages in front and the last question always stay, even where they alone are too long: the
    engine then says so.
    """
    own = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    system, turns = messages[:own], messages[own:]
    later = [i for i, message in enumerate(turns) if i and message.role == "user"]
    dropped = max(0, len(later) - rounds) if rounds else 0
    turns = turns[later[dropped - 1] :] if dropped else turns
    used = count((*system, *turns))
    while used + reserve > limit:
        following = next((i for i, message in enumerate(turns) if i and message.role == "user"), None)
        if following is None:
            break
        turns = turns[following:]
        dropped += 1
        used = count((*system, *turns))
    return Fitted((*system, *turns), used, dropped)


def back_to_user(messages: Turns, index: int) -> Turns:
    """The conversation up to and including what was asked, or a tool's result, at or before ``index``; or nothing."""
    for position in range(min(index, len(messages) - 1), -1, -1):
        if messages[position].role in ASKING:
            return messages[: position + 1]
    return ()


def unfinished(messages: Turns) -> bool:
    """Whether the last answer ended before its end, or was never begun."""
    return bool(messages) and (isinstance(messages[-1], Interrupted) or messages[-1].role in ASKING)


def shown(
    messages: Sequence[Message], mark: str = "", cards: Callable[[Message, bool], list[str]] = lambda *_: []
) -> list[dict[str, Any]]:
    """The turns in the form that chat components take, with HTML outside code and formulas shown as text.

    ``mark`` is Markdown put under each interrupted answer. Answers come in pieces; a question is one, to be edited.
    ``cards`` are shown of a turn's calls of tools and sources, in place of a tool's result, and above a question as a
    part of its text, which is edited as a whole; they are told which turn is the last.
    """
    found: list[dict[str, Any]] = []
    for one in messages:
        parts = pieces(one.content) if one.role == "assistant" else (one.content,)
        texts = [as_text(part) for part in parts]
        if mark and isinstance(one, Interrupted):
            texts[-1] += closing_fence(parts[-1]) + mark
        own = cards(one, one is messages[-1])
        if own and one.role == "user":
            texts = ["\n\n".join([*own, *texts])]
        elif own:
            texts = own if one.role == "tool" or not one.content else [*texts, *own]
        role = "user" if one.role == "tool" else one.role
        found.append({"role": role, "content": [{"type": "text", "text": text} for text in texts]})
    return found
