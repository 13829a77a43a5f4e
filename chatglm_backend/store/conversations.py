"""The conversations of all visitors, each seeing only their own. Safe from any thread and any process.

A write names the revision that its tab has seen, so that two tabs never overwrite each other;
an answer is written under its own number, so that a deleted or replaced one stays gone.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from chatglm_backend.core import Message
from chatglm_backend.documents.passages import Sources
from chatglm_backend.errors import ConversationChanged, ConversationGone, HistoryDamaged
from chatglm_backend.store import attachments
from chatglm_backend.store.branches import append, ask, branch, calls_text, choose, clean, neighbour, remove, versions
from chatglm_backend.store.database import Database
from chatglm_backend.store.prompts import SavedPrompts
from chatglm_backend.store.records import Conversation, MessageState, Opened, Place, StoredMessage, Summary
from chatglm_backend.store.retention import SWEEP_S, sweep
from chatglm_backend.tokenizers.tools import ToolCall

_TITLE_CHARS = 60


def title_from(text: str) -> str:
    """The first line of a prompt, cut at a word where there is one."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if len(line) <= _TITLE_CHARS:
        return line
    cut = line[: _TITLE_CHARS - 1]
    head, space, _ = cut.rpartition(" ")
    return (head if space and len(head) > _TITLE_CHARS // 2 else cut).rstrip() + "…"


class ConversationStore:
    """Kept conversations, and beside them saved ``prompts``.

    Every method may raise :class:`~chatglm_backend.errors.HistoryUnavailable`.
    ``retention_days`` after its last change a conversation is deleted; 0 keeps all.
    """

    def __init__(
        self,
        path: Path,
        *,
        retention_days: int = 0,
        max_bytes: int = 4 << 30,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self._database = Database(path, max_bytes=max_bytes)
        self.prompts = SavedPrompts(self._database)
        self._retention_days = retention_days
        self._now = now
        self._swept = float("-inf")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def take_notice(self) -> HistoryDamaged | None:
        """What is to be said of a damaged file, once."""
        return self._database.take_notice()

    def list(self, visitor: str, search: str = "", limit: int = 200) -> tuple[Summary, ...]:
        """The visitor's conversations, last changed first.

        With ``search``, those whose title, messages or names of documents contain it.
        """
        pattern = "%" + clean(search.strip()).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        with self._database.transaction() as db:
            self._sweep(db)
            rows = db.execute(
                "SELECT id, title, created, updated FROM conversations c WHERE visitor = :who AND (title LIKE :like "
                "ESCAPE '\\' OR EXISTS (SELECT 1 FROM messages m WHERE m.conversation = c.id AND m.content LIKE :like "
                "ESCAPE '\\') OR EXISTS (SELECT 1 FROM documents d WHERE d.conversation = c.id AND d.name LIKE :like "
                "ESCAPE '\\')) ORDER BY updated DESC, rowid DESC LIMIT :limit",
                {"who": visitor, "like": pattern, "limit": limit},
            ).fetchall()
        return tuple(Summary(*row) for row in rows)

    def read(self, visitor: str, conversation_id: str) -> Conversation:
        """A whole conversation. Raises :class:`ConversationGone`, also for another's, and ConversationDamaged."""
        with self._database.transaction() as db:
            return _read(db, visitor, conversation_id)

    def open(self, visitor: str, conversation_id: str) -> Conversation:
        """Like :meth:`read`, and remember it as the one last open."""
        with self._database.transaction() as db:
            found = _read(db, visitor, conversation_id)
            _remember(db, visitor, conversation_id)
            return found

    def last_open(self, visitor: str) -> Conversation | None:
        """The conversation that the visitor had open last, if it is still there."""
        with self._database.transaction() as db:
            row = db.execute(
                "SELECT c.id FROM visitors v JOIN conversations c ON c.id = open AND visitor = v.id WHERE v.id = ?",
                (visitor,),
            ).fetchone()
            return None if row is None else _read(db, visitor, row[0])

    def leave(self, visitor: str) -> None:
        """Have nothing open: a new conversation was begun and has no message yet."""
        with self._database.transaction() as db:
            db.execute("UPDATE visitors SET open = NULL WHERE id = ?", (visitor,))

    def begin(self, visitor: str, place: Place | None, turns: Sequence[Message], adapter: str = "") -> Opened:
        """Keep what is asked, the last of ``turns``, and make room for its answer, the newest of its versions.

        Where the last of ``turns`` is an answer, it is gone on with. What the conversation does not hold in its place
        becomes a version there; nothing is lost. ``adapter`` is the fine-tune that answers, and from now on the
        conversation's.

        Without a place a new conversation holds all turns. Raises :class:`ConversationGone`,
        and :class:`ConversationChanged` where another tab wrote since.
        """
        begun = turns[-1].role == "assistant"
        stored = [StoredMessage.of(turn) for turn in turns]
        if begun:
            stored[-1] = replace(stored[-1], state="interrupted")
        with self._database.transaction() as db:
            self._sweep(db)
            if place is None:
                place, ids = self._insert(db, visitor, title_from(turns[0].content), stored, adapter=adapter)
                added, before = ids[0], 0
            else:
                place = self._advance(db, visitor, place)
                db.execute("UPDATE conversations SET adapter = ? WHERE id = ?", (clean(adapter), place.conversation_id))
                ids, added, before = ask(db, place.conversation_id, stored, self._now())
            if not begun:
                empty = StoredMessage("assistant", "", "interrupted")
                ids += append(db, place.conversation_id, ids[-1], [empty], self._now())
                added = added or ids[-1]
            _remember(db, visitor, place.conversation_id)
            return Opened(place, ids[-1], versions(db, place.conversation_id, ids), added, before)

    def withdraw(self, visitor: str, opened: Opened) -> Conversation | None:
        """Undo :meth:`begin`: what was asked was refused. Returns the conversation, unless it was a new one."""
        with self._database.transaction() as db:
            found = _read(db, visitor, opened.place.conversation_id)
            if opened.added:
                remove(db, opened.added, opened.before)
                attachments.drop_unused(db, found.id)
                found = _read(db, visitor, opened.place.conversation_id)
            if found.messages:
                return found
            db.execute("DELETE FROM conversations WHERE id = ?", (found.id,))
            return None

    def save_answer(
        self,
        opened: Opened,
        text: str,
        state: MessageState,
        timing: Mapping[str, float] | None = None,
        calls: Sequence[ToolCall] = (),
    ) -> bool:
        """Write an answer so far, with its ``calls`` of tools; false where it was deleted or replaced meanwhile.

        In a file that was begun anew its number may be another visitor's answer's, its conversation's name is nobody's.
        """
        figures = None if timing is None else json.dumps(dict(timing), allow_nan=False)
        with self._database.transaction() as db:
            done = db.execute(
                "UPDATE messages SET content = ?, state = ?, timing = ?, calls = ? WHERE id = ? AND conversation = ?",
                (clean(text), state, figures, calls_text(calls), opened.answer_id, opened.place.conversation_id),
            )
            if done.rowcount != 1:
                return False
            db.execute("UPDATE conversations SET updated = ? WHERE id = ?", (self._now(), opened.place.conversation_id))
            return True

    def save_sources(self, opened: Opened, sources: Sources) -> None:
        """Write what an answer was given of the conversation's documents."""
        with self._database.transaction() as db:
            db.execute(
                "UPDATE messages SET sources = ? WHERE id = ? AND conversation = ?",
                (attachments.written(sources), opened.answer_id, opened.place.conversation_id),
            )

    def cut(self, visitor: str, place: Place, position: int) -> Conversation:
        """Delete the message at ``position`` and all that follows it; a former version takes its place, if it has any.

        Raises as :meth:`begin` does.
        """
        with self._database.transaction() as db:
            place = self._advance(db, visitor, place)
            for node in branch(db, place.conversation_id)[position : position + 1]:
                remove(db, node.id, neighbour(db, node.id, -1) or neighbour(db, node.id, 1))
            attachments.drop_unused(db, place.conversation_id)
            return _read(db, visitor, place.conversation_id)

    def switch(self, visitor: str, place: Place, position: int, step: int) -> Conversation:
        """Choose the version before (-1) or after (1) the message at ``position``; what follows it switches along.

        Raises as :meth:`begin` does.
        """
        with self._database.transaction() as db:
            place = self._advance(db, visitor, place)
            for node in branch(db, place.conversation_id)[position : position + 1]:
                choose(db, neighbour(db, node.id, step) or node.id)
            return _read(db, visitor, place.conversation_id)

    def rename(self, visitor: str, conversation_id: str, title: str) -> None:
        """Give it another title, cut to one short line. Raises :class:`ConversationGone`."""
        with self._database.transaction() as db:
            done = db.execute(
                "UPDATE conversations SET title = ? WHERE id = ? AND visitor = ?",
                (clean(title_from(title)), conversation_id, visitor),
            )
            if done.rowcount != 1:
                raise ConversationGone()

    def delete(self, visitor: str, conversation_id: str) -> None:
        """Delete it; nothing happens if it is not there or another visitor's."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM conversations WHERE id = ? AND visitor = ?", (conversation_id, visitor))

    def delete_all(self, visitor: str) -> int:
        """Delete all of a visitor's; returns how many. Their text is overwritten in the file."""
        with self._database.transaction() as db:
            count = db.execute("DELETE FROM conversations WHERE visitor = ?", (visitor,)).rowcount
            db.execute("DELETE FROM visitors WHERE id = ?", (visitor,))
        self._database.checkpoint()
        return count

    def add_all(self, visitor: str, conversations: Iterable[Conversation]) -> tuple[str, ...]:
        """Add whole conversations as new ones, all or none; the last is open. Returns their new ids."""
        ids: list[str] = []
        with self._database.transaction() as db:
            for one in conversations:
                new = self._insert(db, visitor, one.title, one.messages, one.created, one.updated, one.adapter)[0]
                ids.append(new.conversation_id)
            if ids:
                _remember(db, visitor, ids[-1])
        return tuple(ids)

    def _insert(
        self,
        db: sqlite3.Connection,
        visitor: str,
        title: str,
        messages: Sequence[StoredMessage],
        created: float | None = None,
        updated: float | None = None,
        adapter: str = "",
    ) -> tuple[Place, tuple[int, ...]]:
        now, name = self._now(), secrets.token_hex(8)
        db.execute(
            "INSERT INTO conversations (id, visitor, title, created, updated, adapter) VALUES (?, ?, ?, ?, ?, ?)",
            (name, visitor, clean(title), created or now, updated or now, clean(adapter)),
        )
        return Place(name, 0), append(db, name, 0, messages, now)

    def _advance(self, db: sqlite3.Connection, visitor: str, place: Place) -> Place:
        """The next revision. Raises as :meth:`begin` does."""
        row = db.execute(
            "SELECT revision FROM conversations WHERE id = ? AND visitor = ?", (place.conversation_id, visitor)
        ).fetchone()
        if row is None:
            raise ConversationGone()
        if row[0] != place.revision:
            raise ConversationChanged()
        db.execute(
            "UPDATE conversations SET revision = revision + 1, updated = ? WHERE id = ?",
            (self._now(), place.conversation_id),
        )
        return Place(place.conversation_id, place.revision + 1)

    def _sweep(self, db: sqlite3.Connection) -> None:
        now = self._now()
        if self._retention_days > 0 and not 0 <= now - self._swept < SWEEP_S:
            sweep(db, self._retention_days, now)
            self._swept = now


def _read(db: sqlite3.Connection, visitor: str, conversation_id: str) -> Conversation:
    row = db.execute(
        "SELECT id, title, created, updated, revision, adapter FROM conversations WHERE id = ? AND visitor = ?",
        (conversation_id, visitor),
    ).fetchone()
    if row is None:
        raise ConversationGone()
    path = branch(db, conversation_id)
    name, title, created, updated, revision, adapter = row
    return Conversation(
        name, title, created, updated, revision, tuple(node.message for node in path), adapter,
        versions(db, conversation_id, [node.id for node in path]),
    )  # fmt: skip


def _remember(db: sqlite3.Connection, visitor: str, conversation_id: str) -> None:
    db.execute(
        "INSERT INTO visitors (id, open) VALUES (:id, :open) ON CONFLICT (id) DO UPDATE SET open = :open",
        {"id": visitor, "open": conversation_id},
    )
