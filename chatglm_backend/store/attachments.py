"""A conversation's documents in the store: their texts once, and places in them. Called inside a transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from chatglm_backend.documents.passages import Passage, Sources
from chatglm_backend.documents.reading import Document


def add(db: sqlite3.Connection, conversation: str, documents: Sequence[Document]) -> str:
    """Keep what is not kept already; returns what a question's row says of them."""
    for one in documents:
        pages = json.dumps([page.encode("utf-8", "replace").decode("utf-8") for page in one.pages], ensure_ascii=False)
        db.execute(
            "INSERT OR IGNORE INTO documents (conversation, id, name, numbered, tokens, pages) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (conversation, one.id, one.name, one.numbered, one.tokens, pages),
        )
    return json.dumps([one.id for one in documents])


def drop_unused(db: sqlite3.Connection, conversation: str) -> None:
    """Delete the texts that no question names any more."""
    db.execute(
        "DELETE FROM documents WHERE conversation = :name AND id NOT IN (SELECT named.value FROM messages, "
        "json_each(messages.documents) AS named WHERE messages.conversation = :name)",
        {"name": conversation},
    )


def written(sources: Sources | None) -> str:
    """What an answer's row says of its sources; empty for none."""
    if sources is None:
        return ""
    places = [(one.document, (one.page or 1) - 1, one.begin, len(one.text)) for one in sources.passages]
    return json.dumps([sources.count, places])


class Reader:
    """Reads the rows of a conversation, in their order. Raises ValueError or LookupError where they are damaged."""

    def __init__(self, db: sqlite3.Connection, conversation: str) -> None:
        rows = db.execute(
            "SELECT id, name, numbered, tokens, pages FROM documents WHERE conversation = ?", (conversation,)
        )
        self._known = {
            key: Document(name, tuple(json.loads(pages)), bool(numbered), tokens)
            for key, name, numbered, tokens, pages in rows
        }
        if any(one.id != key for key, one in self._known.items()):
            raise ValueError("a document's text has changed on disk")
        self._passed: list[Document] = []

    def documents(self, row: str) -> tuple[Document, ...]:
        """Those that came with a question."""
        found = tuple(self._known[key] for key in json.loads(row))
        self._passed += found
        return found

    def sources(self, row: str) -> Sources | None:
        """What an answer was given of those before it."""
        if not row:
            return None
        count, places = json.loads(row)
        return Sources(tuple(self._passage(*place) for place in places), count)

    def _passage(self, number: int, page: int, begin: int, length: int) -> Passage:
        one = self._passed[number]
        text = one.pages[page][begin : begin + length]
        return Passage(number, one.name, page + 1 if one.numbered else None, text, begin)
