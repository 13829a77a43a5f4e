"""The messages of a conversation as a tree, as SQL. Those that follow the same message are versions of each other.

Of the versions one is chosen; the chosen ones from the first to the last are the branch that is shown and sent. Knows
no visitors.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chatglm_backend.errors import ConversationDamaged
from chatglm_backend.store import attachments
from chatglm_backend.store.records import StoredMessage, Versions
from chatglm_backend.store.schema import digest_of
from chatglm_backend.tokenizers.tools import ToolCall

_DAMAGED = f"""SELECT 1 FROM messages LEFT JOIN checks ON message = messages.id
    WHERE conversation = ? AND digest IS NOT {digest_of("messages")} LIMIT 1"""  # noqa: S608  names, no values


@dataclass(frozen=True, slots=True)
class Node:
    """A message and its number."""

    id: int
    message: StoredMessage


def branch(db: sqlite3.Connection, conversation: str) -> tuple[Node, ...]:
    """The chosen messages from the first to the last. An answer without a word was never shown.

    Raises :class:`ConversationDamaged`.
    """
    try:
        wrong = db.execute(_DAMAGED, (conversation,)).fetchone()
        path = () if wrong else _branch(db, conversation)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ConversationDamaged(path=_file(db)) from error
    if wrong:
        raise ConversationDamaged(path=_file(db))
    return path


def _branch(db: sqlite3.Connection, conversation: str) -> tuple[Node, ...]:
    found = db.execute(
        "WITH RECURSIVE chosen (number, depth) AS ("
        "SELECT id, 0 FROM messages WHERE conversation = :name AND parent = 0 AND chosen UNION ALL "
        "SELECT m.id, depth + 1 FROM messages m JOIN chosen ON m.parent = number "
        "WHERE m.conversation = :name AND m.chosen) "
        "SELECT id, role, content, state, timing, created, calls, documents, sources "
        "FROM chosen JOIN messages ON id = number "
        "WHERE NOT (role = 'assistant' AND content = '' AND calls = '') ORDER BY depth",
        {"name": conversation},
    )
    attached = attachments.Reader(db, conversation)
    return tuple(
        Node(
            number,
            StoredMessage(
                role, content, state, json.loads(timing) if timing else None, when, _calls(calls),
                attached.documents(documents), attached.sources(sources),
            ),
        )
        for number, role, content, state, timing, when, calls, documents, sources in found
    )  # fmt: skip


def _file(db: sqlite3.Connection) -> str:
    return str(db.execute("PRAGMA database_list").fetchone()[2])


def ask(
    db: sqlite3.Connection, conversation: str, turns: Sequence[StoredMessage], now: float
) -> tuple[tuple[int, ...], int, int]:
    """Let the branch end with ``turns``; where it holds another last one, that is a new version.

    So is an answer with more behind it: it may go on in other words, and what follows belongs to those that it had.
    Returns their numbers, the first new one's or 0, and what stood in the place of the first message to come, or 0.
    """
    path = branch(db, conversation)
    kept = [node.id for node in path[: len(turns) - 1]]
    last = path[len(turns) - 1] if len(path) >= len(turns) else None
    followed = turns[-1].role == "assistant" and len(path) > len(turns)
    if last is not None and not followed and _asked(last.message) == _asked(turns[-1]):
        kept.append(last.id)
    before = path[len(kept)].id if len(path) > len(kept) else 0
    new = append(db, conversation, kept[-1] if kept else 0, turns[len(kept) :], now)
    return (*kept, *new), (new or (0,))[0], before


def _asked(one: StoredMessage) -> tuple[object, ...]:
    return one.role, one.content, one.documents


def versions(db: sqlite3.Connection, conversation: str, ids: Sequence[int]) -> Versions:
    """Which of how many each of these messages is, both from 1."""
    kin: dict[tuple[int, str], list[int]] = {}
    of: dict[int, list[int]] = {}
    last = ids[-1] if ids else 0
    for number, parent, role in db.execute(
        "SELECT id, parent, role FROM messages WHERE conversation = ? "
        "AND (id = ? OR NOT (role = 'assistant' AND content = '' AND calls = '')) ORDER BY id",
        (conversation, last),
    ):
        of[number] = kin.setdefault((parent, role), [])
        of[number].append(number)
    return tuple((of[number].index(number) + 1, len(of[number])) for number in ids)


def append(
    db: sqlite3.Connection, conversation: str, parent: int, messages: Iterable[StoredMessage], now: float
) -> tuple[int, ...]:
    """Add messages behind ``parent`` (0: at the beginning), each behind the one before, all chosen; their numbers."""
    ids = []
    for one in messages:
        timing = None if one.timing is None else json.dumps(dict(one.timing))
        documents, sources = attachments.add(db, conversation, one.documents), attachments.written(one.sources)
        values = (conversation, parent, one.role, clean(one.content), one.state, timing, one.created or now)
        done = db.execute(
            "INSERT INTO messages (conversation, parent, role, content, state, timing, created, calls, documents, "
            "sources) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, calls_text(one.calls), documents, sources),
        )
        parent = done.lastrowid or 0
        choose(db, parent)
        ids.append(parent)
    return tuple(ids)


def neighbour(db: sqlite3.Connection, number: int, step: int) -> int:
    """The version before (-1) or after (1) this one; 0 where there is none."""
    row = db.execute(
        "SELECT v.id FROM messages m JOIN messages v ON v.conversation = m.conversation AND v.parent = m.parent "
        "AND v.role = m.role WHERE m.id = :id AND (v.id - m.id) * :step > 0 "
        "AND NOT (v.role = 'assistant' AND v.content = '' AND v.calls = '') ORDER BY (v.id - m.id) * :step LIMIT 1",
        {"id": number, "step": step},
    ).fetchone()
    return 0 if row is None else int(row[0])


def choose(db: sqlite3.Connection, number: int) -> None:
    """Choose this version."""
    db.execute(
        "UPDATE messages SET chosen = (id = :id) WHERE (conversation, parent) = "
        "(SELECT conversation, parent FROM messages WHERE id = :id)",
        {"id": number},
    )


def remove(db: sqlite3.Connection, number: int, instead: int = 0) -> None:
    """Delete a message and all that follows it, in all versions; choose ``instead`` where it is a version."""
    db.execute(
        "WITH RECURSIVE gone (number) AS (SELECT ? UNION ALL "
        "SELECT m.id FROM messages m JOIN gone ON m.parent = number) "
        "DELETE FROM messages WHERE id IN (SELECT number FROM gone)",
        (number,),
    )
    if instead:
        choose(db, instead)


def calls_text(calls: Sequence[ToolCall]) -> str:
    """An answer's calls of tools, as they are kept."""
    return json.dumps([[call.name, call.arguments] for call in calls]) if calls else ""


def _calls(text: str) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(*pair) for pair in json.loads(text)) if text else ()


def clean(text: str) -> str:
    """Text that sqlite can hold: half of a surrogate pair, which a browser may send, becomes a mark."""
    return text.encode("utf-8", "replace").decode("utf-8")
