"""Prompts that visitors saved under names of their own, each seeing only theirs. Safe from any thread and process."""

from __future__ import annotations

from dataclasses import dataclass

from chatglm_backend.errors import PromptNotSaved
from chatglm_backend.sentences import Sentence
from chatglm_backend.store.branches import clean
from chatglm_backend.store.database import Database

MOST_PROMPTS, MOST_CHARACTERS, _MOST_NAME = 100, 20_000, 60


@dataclass(frozen=True, slots=True)
class SavedPrompt:
    """A text and its name, one line that no other of the visitor's has."""

    name: str
    text: str


class SavedPrompts:
    """The table of them. Every method may raise :class:`~chatglm_backend.errors.HistoryUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, visitor: str) -> tuple[SavedPrompt, ...]:
        """The visitor's, by name."""
        with self._database.transaction() as db:
            rows = db.execute("SELECT name, text FROM prompts WHERE visitor = ? ORDER BY name", (visitor,)).fetchall()
        return tuple(SavedPrompt(*row) for row in rows)

    def save(self, visitor: str, name: str, text: str, *, replace: bool = False) -> None:
        """Keep a text; one of the same name only makes way where ``replace`` says so. Raises PromptNotSaved."""
        name = clean(" ".join(name.split()))[:_MOST_NAME]
        if not name or not text.strip():
            raise PromptNotSaved(reason=Sentence("prompts.nothing"))
        if len(text) > MOST_CHARACTERS:
            raise PromptNotSaved(reason=Sentence("prompts.long", most=MOST_CHARACTERS))
        with self._database.transaction() as db:
            there = "SELECT 1 FROM prompts WHERE visitor = ? AND name = ?"
            if not replace and db.execute(there, (visitor, name)).fetchone():
                raise PromptNotSaved(reason=Sentence("prompts.exists"))
            others = "SELECT COUNT(*) FROM prompts WHERE visitor = ? AND name <> ?"
            if db.execute(others, (visitor, name)).fetchone()[0] >= MOST_PROMPTS:
                raise PromptNotSaved(reason=Sentence("prompts.full", most=MOST_PROMPTS))
            db.execute(
                "INSERT OR REPLACE INTO prompts (visitor, name, text) VALUES (?, ?, ?)", (visitor, name, clean(text))
            )

    def delete(self, visitor: str, name: str) -> None:
        """Delete it; nothing happens if it is not there."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM prompts WHERE visitor = ? AND name = ?", (visitor, name))
