"""Deletes what nobody has touched for too long, by a clock that may be wrong."""

from __future__ import annotations

import sqlite3

SWEEP_S = 3600.0
_DAY_S = 86_400.0
_JUMP_DAYS = 366


def sweep(db: sqlite3.Connection, days: int, now: float) -> None:
    """Delete conversations that were not touched for ``days``.

    A clock that went back, or on by more than a year and all these days, since it was looked at last may have jumped.
    Then it must go on rightly for a day before anything is deleted by it.
    """
    known = db.execute("SELECT seen, since FROM clock").fetchone()
    newest = db.execute("SELECT MAX(updated) FROM conversations").fetchone()[0]
    seen, since = known or (newest or now, now - _DAY_S)
    if not -SWEEP_S <= now - seen < max(days, _JUMP_DAYS) * _DAY_S:
        since = now
    db.execute("INSERT OR REPLACE INTO clock VALUES (1, ?, ?)", (now, since))
    if now - since >= _DAY_S:
        db.execute("DELETE FROM conversations WHERE updated < ?", (now - days * _DAY_S,))
