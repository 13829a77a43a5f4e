"""The tables, as ordered migrations, and the table that says which were applied."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Sequence

_CHECKED = (
    "conversation", "parent", "role", "content", "state", "timing", "created", "calls", "documents", "sources",
)  # fmt: skip


def digest_of(row: str) -> str:
    """The digest of a row of ``messages``, as SQL."""
    return f"digest({', '.join(f'CAST({row}.{name} AS BLOB)' for name in _CHECKED)})"


MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE conversations (
            id TEXT PRIMARY KEY, visitor TEXT NOT NULL, title TEXT NOT NULL,
            created REAL NOT NULL, updated REAL NOT NULL, revision INTEGER NOT NULL DEFAULT 0)""",
        "CREATE INDEX conversations_of_visitor ON conversations (visitor, updated DESC)",
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            position INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('complete', 'interrupted')),
            timing TEXT, created REAL NOT NULL, UNIQUE (conversation, position))""",
    ),
    (
        # Which conversation a visitor had open last; none after beginning a new one.
        """CREATE TABLE visitors (
            id TEXT PRIMARY KEY, open TEXT REFERENCES conversations (id) ON DELETE SET NULL)""",
    ),
    # Which fine-tune answers; empty is the model itself.
    ("ALTER TABLE conversations ADD COLUMN adapter TEXT NOT NULL DEFAULT ''",),
    # An answer's calls of tools: a JSON list of names and arguments; empty for none.
    ("ALTER TABLE messages ADD COLUMN calls TEXT NOT NULL DEFAULT ''",),
    (
        # What documents say, once for each conversation. A question names those that came with it; an answer says what
        # it was given of them: of how many passages, and of each the document, page, beginning and length.
        """CREATE TABLE documents (
            conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE, id TEXT NOT NULL,
            name TEXT NOT NULL, numbered INTEGER NOT NULL, tokens INTEGER NOT NULL, pages TEXT NOT NULL,
            PRIMARY KEY (conversation, id))""",
        "ALTER TABLE messages ADD COLUMN documents TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE messages ADD COLUMN sources TEXT NOT NULL DEFAULT ''",
    ),
    (
        # A tree instead of a row: ``parent`` is the message before, 0 for none; of those with the same, one is chosen.
        "ALTER TABLE messages RENAME TO messages_in_a_row",
        """CREATE TABLE messages (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
            parent INTEGER NOT NULL, chosen INTEGER NOT NULL DEFAULT 1, role TEXT NOT NULL, content TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('complete', 'interrupted')),
            timing TEXT, created REAL NOT NULL, calls TEXT NOT NULL DEFAULT '',
            documents TEXT NOT NULL DEFAULT '[]', sources TEXT NOT NULL DEFAULT '')""",
        "CREATE INDEX messages_by_place ON messages (conversation, parent)",
        "CREATE INDEX messages_by_parent ON messages (parent)",
        """INSERT INTO messages (id, conversation, parent, role, content, state, timing, created, calls,
            documents, sources)
            SELECT id, conversation, COALESCE(LAG(id) OVER (PARTITION BY conversation ORDER BY position), 0),
            role, content, state, timing, created, calls, documents, sources FROM messages_in_a_row""",
        "DROP TABLE messages_in_a_row",
    ),
    (
        # What each message was when it was written: sqlite itself does not see that a byte of a text has changed.
        "CREATE TABLE checks (message INTEGER PRIMARY KEY REFERENCES messages (id) ON DELETE CASCADE, digest TEXT)",
        f"INSERT INTO checks SELECT id, {digest_of('messages')} FROM messages",  # noqa: S608  names, no values
        f"""CREATE TRIGGER check_new AFTER INSERT ON messages BEGIN
            INSERT INTO checks VALUES (NEW.id, {digest_of("NEW")}); END""",  # noqa: S608
        f"""CREATE TRIGGER check_changed AFTER UPDATE OF {", ".join(_CHECKED)} ON messages BEGIN
            UPDATE checks SET digest = {digest_of("NEW")} WHERE message = NEW.id; END""",  # noqa: S608
    ),
    # Texts that visitors saved to use again.
    (
        """CREATE TABLE prompts (
            visitor TEXT NOT NULL, name TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (visitor, name))""",
    ),
    # When the clock was last looked at, and since when it has gone on rightly: by a wrong one nothing is deleted.
    ("CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 1), seen REAL NOT NULL, since REAL NOT NULL)",),
    # Whose a saved prompt was when it was written: that may stand nowhere else.
    (
        "ALTER TABLE prompts ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
        "UPDATE prompts SET owner = digest(CAST(visitor AS BLOB))",
        """CREATE TRIGGER prompt_new AFTER INSERT ON prompts BEGIN
            UPDATE prompts SET owner = digest(CAST(NEW.visitor AS BLOB)) WHERE rowid = NEW.rowid; END""",
    ),
)
"""Only ever appended to: a released migration stays as it is."""


class NewerSchema(Exception):
    """The file was written by a later version of the program."""


def migrate(connection: sqlite3.Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> int:
    """Apply what is missing, each migration whole or not at all; returns the version reached.

    Raises :class:`NewerSchema` and ``sqlite3.Error``.
    """
    connection.create_function("digest", -1, _digest, deterministic=True)
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS migrations (version INTEGER PRIMARY KEY, applied REAL NOT NULL)")
        done = int(connection.execute("SELECT COALESCE(MAX(version), 0) FROM migrations").fetchone()[0])
        if done > len(migrations):
            raise NewerSchema
        for version, statements in enumerate(migrations[done:], start=done + 1):
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, ?)", (version, time.time()))
    except BaseException:
        if connection.in_transaction:  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return len(migrations)


def _digest(*values: bytes | None) -> str:
    parts = (b"-" if value is None else b"%d:%b" % (len(value), value) for value in values)
    return hashlib.sha256(b"".join(parts)).hexdigest()[:32]
