"""Conversations as files: out as Markdown and JSON, back in from that JSON, checked field by field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import cast

from chatglm_backend.errors import ImportDamaged, ImportNotOurs, ImportOtherVersion, ImportTooLarge
from chatglm_backend.store.records import Conversation, StoredMessage
from chatglm_backend.textfile import parse_json

MAX_IMPORT_BYTES = 8_000_000
_FORMAT, _VERSION = "chatglm-conversations", 1
_MAX_CONVERSATIONS, _MAX_MESSAGES, _MAX_TITLE, _MAX_FIGURES = 1000, 10_000, 200, 40
_LAST_TIME = 32_503_680_000.0  # the year 3000


def to_json(conversations: Sequence[Conversation]) -> str:
    """The exchange format, for :func:`from_json`."""
    body = {
        "format": _FORMAT,
        "version": _VERSION,
        "conversations": [
            {
                "title": one.title,
                "created": one.created,
                "updated": one.updated,
                "messages": [
                    {
                        "role": message.role,
                        "content": message.content,
                        "state": message.state,
                        "timing": None if message.timing is None else dict(message.timing),
                        "created": message.created,
                    }
                    for message in one.messages
                ],
            }
            for one in conversations
        ],
    }
    return json.dumps(body, ensure_ascii=False, indent=1)


def to_markdown(conversations: Sequence[Conversation], names: Mapping[str, str]) -> str:
    """For reading. ``names`` gives the headings for roles, and the word for ``interrupted``."""
    parts: list[str] = []
    for one in conversations:
        when = datetime.fromtimestamp(one.created, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        parts.append(f"# {one.title}\n\n{when}\n")
        for message in one.messages:
            mark = f" {names['interrupted']}" if message.state == "interrupted" else ""
            parts.append(f"## {names.get(message.role, message.role)}{mark}\n\n{message.content}\n")
    return "\n".join(parts)


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
    found = _items(body, "conversations", _MAX_CONVERSATIONS)
    if not found:
        raise ImportNotOurs()
    return tuple(_conversation(item) for item in found)


def _conversation(item: Mapping[str, object]) -> Conversation:
    messages = tuple(_message(one) for one in _items(item, "messages", _MAX_MESSAGES))
    title = _text(item, "title")[:_MAX_TITLE]
    return Conversation("", title, _time(item, "created"), _time(item, "updated"), 0, messages)


def _message(item: Mapping[str, object]) -> StoredMessage:
    role, state = item.get("role"), item.get("state", "complete")
    if role not in ("system", "user", "assistant"):
        raise ImportDamaged(field="role")
    if state not in ("complete", "interrupted"):
        raise ImportDamaged(field="state")
    return StoredMessage(role, _text(item, "content"), state, _figures(item), _time(item, "created"))


def _items(item: Mapping[str, object], name: str, most: int) -> list[dict[str, object]]:
    found = item.get(name)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ImportDamaged(field=name)
    if len(found) > most:
        raise ImportDamaged(field=name)
    return found


def _text(item: Mapping[str, object], name: str) -> str:
    found = item.get(name)
    if not isinstance(found, str):
        raise ImportDamaged(field=name)
    return found


def _time(item: Mapping[str, object], name: str) -> float:
    found = item.get(name)
    if not _is_number(found) or not 0 <= cast("float", found) <= _LAST_TIME:
        raise ImportDamaged(field=name)
    return float(cast("float", found))


def _figures(item: Mapping[str, object]) -> dict[str, float] | None:
    found = item.get("timing")
    if found is None:
        return None
    if not isinstance(found, dict) or len(found) > _MAX_FIGURES or not all(_is_number(v) for v in found.values()):
        raise ImportDamaged(field="timing")
    return {str(name): float(value) for name, value in found.items()}


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e300 and math.isfinite(value)
