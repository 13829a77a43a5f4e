"""The output of a batch: a line for each answer, whole and on disk before it counts. Knows no model.

A process that is killed leaves at most a torn last line, which is cut off at the next start. One process at a time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from chatglm_backend.batch.inputs import Line
from chatglm_backend.errors import BatchRefused
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import parse_json

_OURS = b'{"id": "batch_req_'


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the output: which request it answers, whether that could be done, and its new tokens."""

    key: str | int
    id: str
    ok: bool
    tokens: int


class Journal:
    """An open output file; a context manager. ``torn``: a line that was cut off in the middle was removed."""

    def __init__(self, path: Path) -> None:
        """Read what is there already. Raises BatchRefused (in use, or not ours), or OSError."""
        self.path = path
        self.torn = False
        self._lock = filelock.FileLock(f"{path}.lock", thread_local=False)  # another thread lets it go
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise BatchRefused(path=path.name, reason=Sentence("batch.in_use")) from None
        try:
            self._file = path.open("ab+", buffering=0)
            self.entries = self._read()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def left(self, lines: Iterable[Line]) -> list[Line]:
        """Those that have no answer yet. Raises BatchRefused where an answer is to something else."""
        lines = list(lines)
        wanted = {line.key: line.id for line in lines}
        for entry in self.entries:
            if wanted.get(entry.key) != entry.id:
                raise BatchRefused(path=self.path.name, reason=Sentence("batch.changed", id=entry.key))
        done = {entry.key for entry in self.entries}
        return [line for line in lines if line.key not in done]

    def add(self, value: Mapping[str, Any]) -> Entry:
        """Write one line, and wait until the disk has it. Raises OSError, after which the file ends where it did."""
        try:
            data = json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # half a character
            data = json.dumps(value).encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            data += b"\n"
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        entry = _entry(value)
        self.entries.append(entry)
        return entry

    def close(self) -> None:
        """Let others have it."""
        if file := getattr(self, "_file", None):
            file.close()
        self._lock.release()

    def _read(self) -> list[Entry]:
        self._file.seek(0)
        entries, end = [], 0
        for number, data in enumerate(self._file.readlines(), 1):
            if not data.endswith(b"\n") and (data.startswith(_OURS) or _OURS.startswith(data)):
                self.torn = True
                break
            try:
                entries.append(_entry(parse_json(data)))
            except (ValueError, LookupError, TypeError, OverflowError):
                raise BatchRefused(path=self.path.name, reason=Sentence("batch.not_output", number=number)) from None
            end += len(data)
        self._file.truncate(end)
        return entries


def _entry(value: Any) -> Entry:  # noqa: ANN401 - whatever somebody has in a file
    name, response = value["custom_id"], value["response"]
    key = name if isinstance(name, str) else int(value["error"]["line"])
    body = response["body"] if response else {}
    ok = bool(response) and response["status_code"] == 200
    tokens = body["usage"]["completion_tokens"] if ok else 0
    return Entry(key, str(value["id"]), ok, int(tokens))
