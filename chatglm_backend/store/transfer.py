"""Conversations as files: out as Markdown and JSON, back in from that JSON, checked field by field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from chatglm_backend.core import Role
from chatglm_backend.documents.passages import Passage
from chatglm_backend.documents.reading import Document, document_name
from chatglm_backend.errors import ImportDamaged, ImportNotOurs, ImportOtherVersion, ImportTooLarge
from chatglm_backend.store.records import Conversation, MessageState, StoredMessage
from chatglm_backend.textfile import parse_json
from chatglm_backend.tokenizers.tools import TOOL_NAME, ToolCall

MAX_IMPORT_BYTES = 8_000_000
_FORMAT, _VERSION = "chatglm-conversations", 1
_MAX_CONVERSATIONS, _MAX_MESSAGES, _MAX_TITLE, _MAX_NAME, _MAX_FIGURES, _MAX_CALLS = 1_000_000, 10_000, 200, 64, 40, 16
_Moment = Annotated[float, Field(ge=0, le=32_503_680_000)]  # to the year 3000
_Figure = Annotated[float, Field(gt=-1e300, lt=1e300)]


class _Call(BaseModel, strict=True):
    name: Annotated[str, Field(pattern=TOOL_NAME)]
    arguments: str


class _Mention(BaseModel, strict=True):
    name: Annotated[str, Field(max_length=_MAX_TITLE)]
    tokens: Annotated[int, Field(ge=0)] = 0


class _Turn(BaseModel, strict=True, allow_inf_nan=False):
    role: Role
    content: str
    state: MessageState = "complete"
    timing: Annotated[dict[str, _Figure], Field(max_length=_MAX_FIGURES)] | None = None
    created: _Moment
    calls: Annotated[list[_Call], Field(max_length=_MAX_CALLS)] = []
    documents: Annotated[list[_Mention], Field(max_length=_MAX_CALLS)] = []

    def stored(self) -> StoredMessage:
        calls = tuple(ToolCall(call.name, call.arguments) for call in self.calls)
        documents = tuple(Document(document_name(one.name), (), tokens=one.tokens) for one in self.documents)
        return StoredMessage(self.role, self.content, self.state, self.timing, self.created, calls, documents)


class _Talk(BaseModel, strict=True, allow_inf_nan=False):
    title: str
    created: _Moment
    updated: _Moment
    adapter: str = ""
    messages: Annotated[list[_Turn], Field(max_length=_MAX_MESSAGES)]


class _Export(BaseModel, strict=True):
    conversations: Annotated[list[_Talk], Field(max_length=_MAX_CONVERSATIONS)]


def to_json(conversations: Sequence[Conversation]) -> str:
    """The exchange format, for :func:`from_json`. Documents are named; what they say stays here."""
    found = [asdict(one) for one in conversations]
    for one, talk in zip(found, conversations, strict=True):
        del one["id"], one["revision"], one["versions"]
        for turn, message in zip(one["messages"], talk.messages, strict=True):
            turn["documents"] = [{"name": document.name, "tokens": document.tokens} for document in message.documents]
            turn["sources"] = _places(message, lambda one: one.label)
    return json.dumps({"format": _FORMAT, "version": _VERSION, "conversations": found}, ensure_ascii=False, indent=1)


def to_markdown(
    conversations: Sequence[Conversation], names: Mapping[str, str], where: Callable[[Passage], str]
) -> str:
    """For reading. ``names`` gives the headings for roles, and words for ``interrupted``, ``document``, ``sources``.

    ``where`` says where a passage stands.
    """
    parts: list[str] = []
    for one in conversations:
        when = datetime.fromtimestamp(one.created, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        parts.append(f"# {one.title}\n\n{when}\n")
        for message in one.messages:
            mark = f" {names['interrupted']}" if message.state == "interrupted" else ""
            parts.append(f"## {names.get(message.role, message.role)}{mark}\n\n{message.content}\n")
            parts += [f"`{call.name}`: `{call.arguments}`\n" for call in message.calls]
            parts += [f"{names['document']}: {document.name}\n" for document in message.documents]
            if places := _places(message, where):
                parts.append(f"{names['sources']}: {'; '.join(places)}\n")
    return "\n".join(parts)


def _places(message: StoredMessage, where: Callable[[Passage], str]) -> list[str]:
    """Where an answer's passages stand, each place once."""
    return list(dict.fromkeys(map(where, message.sources.passages))) if message.sources else []


def from_json(data: bytes) -> tuple[Conversation, ...]:
    """Read an export; the ids are empty, as the store gives new ones.

    Raises a kind of :class:`~chatglm_backend.errors.ImportRefused`.
    """
    if len(data) > MAX_IMPORT_BYTES:
        raise ImportTooLarge(megabytes=MAX_IMPORT_BYTES // 1_000_000)
    try:
        body = parse_json(data)
    except ValueError as error:
        raise ImportNotOurs() from error
    if not isinstance(body, dict) or body.get("format") != _FORMAT:
        raise ImportNotOurs()
    if body.get("version") != _VERSION:
        raise ImportOtherVersion()
    try:
        found = _Export.model_validate(body).conversations
    except ValidationError as error:
        names = [part for part in error.errors()[0]["loc"] if isinstance(part, str)]
        raise ImportDamaged(field="timing" if "timing" in names else names[-1]) from error
    if not found:
        raise ImportNotOurs()
    return tuple(
        Conversation(
            "", one.title[:_MAX_TITLE], one.created, one.updated, 0,
            tuple(turn.stored() for turn in one.messages), one.adapter[:_MAX_NAME],
        )
        for one in found
    )  # fmt: skip
