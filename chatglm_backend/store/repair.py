"""Makes the indexes of a damaged file again, and the keys that only they still know. Knows no conversations."""

from __future__ import annotations

import sqlite3

_KEYS = (
    ("conversations", "id", "sqlite_autoindex_conversations_1", "messages", "conversation"),
    ("conversations", "visitor", "conversations_of_visitor", "visitors", "id"),
    ("messages", "conversation", "messages_by_place", "conversations", "id"),
    ("documents", "conversation", "sqlite_autoindex_documents_1", "conversations", "id"),
    ("prompts", "visitor", "sqlite_autoindex_prompts_1", "visitors", "id"),
)
"""A table, its column, an index that begins with it, and where else its values stand."""


def repair(connection: sqlite3.Connection) -> None:
    """Let tables and indexes say the same.

    Where they differ the table is right, unless what it says stands nowhere else and what the index says does; of a
    prompt, unless its owner's digest says so. Messages' digests stay as they were, so that a message with another
    damage is still found. Raises ``sqlite3.Error``.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        said = [
            connection.execute(
                f"SELECT said.rowid, said.{column} FROM {table} said INDEXED BY {index} "  # noqa: S608  names, no values
                f"JOIN {table} now NOT INDEXED ON now.rowid = said.rowid WHERE now.{column} IS NOT said.{column}"
            ).fetchall()
            for table, column, index, _, _ in _KEYS
        ]
        connection.execute("REINDEX")
        digests = [
            found
            for (table, *_), rows in zip(_KEYS, said, strict=True)
            if table == "messages"
            for row, _ in rows
            for found in connection.execute("SELECT digest, message FROM checks WHERE message = ?", (row,))
        ]
        for (table, column, _, other, key), rows in zip(_KEYS, said, strict=True):
            stands = f"EXISTS (SELECT 1 FROM {other} WHERE {key} = "  # noqa: S608  names, no values
            right = f"NOT {stands} {table}.{column}) AND {stands} ?1)"
            if table == "prompts":
                right = f"({right}) OR owner = digest(CAST(?1 AS BLOB))"
            connection.executemany(
                f"UPDATE {table} SET {column} = ?1 WHERE rowid = ?2 AND ({right})",  # noqa: S608
                [(value, row) for row, value in rows],
            )
        connection.executemany("UPDATE checks SET digest = ? WHERE message = ?", digests)
        connection.execute("COMMIT")
    except sqlite3.IntegrityError as error:  # two rows say the same
        raise sqlite3.DatabaseError("database disk image is malformed") from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
