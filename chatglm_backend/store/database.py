"""One sqlite file: opened on first use, migrated, shared by threads, set aside when it is damaged.

Turns sqlite's errors into the two that people can do something about. Knows no conversations.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chatglm_backend.errors import (
    HistoryDamaged,
    HistoryError,
    HistoryRepaired,
    HistoryReplaced,
    HistoryUnavailable,
)
from chatglm_backend.sentences import Sentence
from chatglm_backend.store.folder import private_folder
from chatglm_backend.store.repair import repair
from chatglm_backend.store.schema import NewerSchema, migrate

_PAGE = 4096
_WAIT_S = 3.0
_OPENED = 3  # so many times in a row, before its identity counts no more
_OF_ONE_ROW = ("CHECK constraint", "NULL value")  # found again by its digest, when it is read
_OF_AN_INDEX = " index "  # which can be made again

_log = logging.getLogger(__name__)


class Database:
    """A sqlite file in WAL mode. ``max_bytes`` bounds its size; ``notice`` says what was set aside, once."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        # Which one the connection is to, whatever its name is by now; none where the file system does not tell.
        self._file: tuple[int, int] | None = None
        self._notice: HistoryDamaged | None = None

    def take_notice(self) -> HistoryDamaged | None:
        """What happened to a damaged file; the second call finds nothing."""
        with self._lock:
            notice, self._notice = self._notice, None
            return notice

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, one at a time across threads and processes.

        Raises :class:`HistoryUnavailable`, :class:`HistoryRepaired` after the file was put right,
        :class:`HistoryDamaged` after a fresh one was begun, and :class:`HistoryReplaced` where somebody else began it
        meanwhile.
        """
        with self._lock:
            connection = self._open()
            try:
                connection = self._begin(connection)
                try:
                    yield connection
                except BaseException:
                    _roll_back(connection)
                    raise
                connection.execute("COMMIT")
            except (sqlite3.Error, UnicodeDecodeError) as error:
                _roll_back(connection)
                raise self._explained(error) from error
            if not self._there():  # what was written may be in the file that is aside
                raise self._left()

    def checkpoint(self) -> None:
        """Write the log back and empty it, so that deleted text is in no file any more."""
        with self._lock:
            connection = self._open()
            try:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except (sqlite3.Error, UnicodeDecodeError) as error:
                raise self._explained(error) from error

    def close(self) -> None:
        """Close the file; a later use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is not None and not self._there():
            self._left()  # what is written to it now would be lost
        if self._connection is None:
            try:
                self._connection = self._connect()
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not _damaged(error):
                    raise self._explained(error) from error
                if self._there():  # not where another process has set it aside meanwhile
                    self._notice = self._set_aside()
                try:
                    self._connection = self._connect()
                except sqlite3.Error as again:
                    raise HistoryUnavailable(path=self.path, reason=str(again)) from again
        return self._connection

    def _begin(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Begin in the file that has the name by now: another process may have moved the one that was opened."""
        for opened in range(1, _OPENED + 1):
            connection.execute("BEGIN IMMEDIATE")
            if self._there():
                break
            if opened == _OPENED:  # again and again: the file system gives one file ever new numbers
                self._file, self._notice = None, None
                break
            _roll_back(connection)
            connection = self._open()
        return connection

    def _there(self) -> bool:
        """Whether the file that was opened is the one of that name."""
        try:
            return self._file in (None, _identity(self.path.stat()))
        except OSError:
            return False

    def _left(self) -> HistoryReplaced:
        """Close the file that somebody has deleted, replaced or set aside, and keep a notice of that."""
        self.close()
        replaced = HistoryReplaced(path=self.path)
        self._notice = self._notice or replaced
        return replaced

    def _connect(self) -> sqlite3.Connection:
        private_folder(self.path.parent)
        try:
            # Made here, for its owner only: sqlite gives its log the same rights.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._file = _identity(self.path.stat())  # not the open file's, which is another one on some file systems
        except OSError as error:
            raise HistoryUnavailable(path=self.path, reason=error.strerror or type(error).__name__) from error
        connection = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        # A damaged text must not take the others' along: whoever reads it sees by its digest that it is one.
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        try:
            for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "secure_delete=ON"):
                connection.execute(f"PRAGMA {pragma}")
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            indexes = [problem for problem in problems if _OF_AN_INDEX in problem]
            if not all(one == "ok" or one.startswith(_OF_ONE_ROW) or one in indexes for one in problems):
                raise sqlite3.DatabaseError("database disk image is malformed")
            migrate(connection)
            if indexes:
                repair(connection)
                _log.warning("%s was damaged (%s) and was put right", self.path, indexes[0])
            connection.execute(f"PRAGMA max_page_count={max(1, self._max_bytes // _PAGE)}")
        except NewerSchema as error:
            connection.close()
            reason = Sentence("file.newer")
            raise HistoryUnavailable(path=self.path, reason=reason) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self) -> HistoryDamaged:
        """Rename the file and its logs; nothing of it is deleted."""
        aside = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        number = 1
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{aside.name.split('_')[0]}_{number}")
        try:
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):
                log = self.path.with_name(self.path.name + suffix)
                if log.exists():
                    log.replace(aside.with_name(aside.name + suffix))
        except OSError as error:
            raise HistoryUnavailable(path=self.path, reason=Sentence("file.cannot_rename")) from error
        return HistoryDamaged(path=aside)

    def _explained(self, error: sqlite3.Error | UnicodeDecodeError) -> HistoryError:
        if not _damaged(error):
            return HistoryUnavailable(path=self.path, reason=str(error))
        self.close()
        before, self._notice = self._file, None
        try:
            self._open()  # looks at the whole file, and puts it right or sets it aside
        except HistoryError as problem:
            return problem
        if self._notice is None and self._file != before:
            self._notice = HistoryReplaced(path=self.path)
        return self._notice or HistoryRepaired()


def _identity(file: os.stat_result) -> tuple[int, int] | None:
    return (file.st_dev, file.st_ino) if file.st_ino else None


def _damaged(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    """Also where sqlite's own message is no text: it tells of a damaged table by its name."""
    text = str(error).lower()
    return isinstance(error, UnicodeDecodeError) or "malformed" in text or "not a database" in text


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        return
