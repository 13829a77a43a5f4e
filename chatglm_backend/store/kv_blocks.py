"""Keys and values of conversations on disk, in blocks of tokens; bytes in, bytes out.

A block is one file: a digest, the ids of all tokens up to its end, its bytes. It is only ever used where the digest
is right, also of what it must belong to, and every id is compared; anything else is as if it were not there. Blocks
are written under another name first, so that no reader ever meets half of one. Thread-safe.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from chatglm_backend.core import KeptAs
from chatglm_backend.leftovers import remove_leftovers

BLOCK = 64
"""Tokens in a block; the last one of a conversation may have fewer."""

_DIGEST = 32
_ID = 4
_SHARE_OF_FREE = 0.1


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a conversation's blocks lie, and what they belong to: weights, numbers, fine-tune."""

    kept_as: KeptAs
    identity: str


class KVBlocks:
    """All conversations' blocks in one folder, bounded in bytes and days (0: for ever)."""

    def __init__(self, root: Path, *, max_bytes: int, days: int = 0) -> None:
        self.root = root
        self._max_bytes = max_bytes
        self._days = days
        self._gone: set[KeptAs] = set()
        self._lock = threading.Lock()

    def read(self, binding: Binding, index: int, ids: tuple[int, ...], token_bytes: int) -> tuple[int, bytes]:
        """Of a block the leading tokens that ``ids`` has too, and all its bytes, ``token_bytes`` for each token.

        No tokens where there is no such block, or a wrong one, which is removed.
        """
        path = self._path(binding, index)
        try:
            data = path.read_bytes()
        except OSError:
            return 0, b""
        before = index * BLOCK
        count, rest = divmod(len(data) - _DIGEST - _ID * before, _ID + token_bytes)
        if rest or not 0 < count <= BLOCK or data[:_DIGEST] != _digest(binding, memoryview(data)[_DIGEST:]):
            with contextlib.suppress(OSError):
                path.unlink()
            return 0, b""
        end = _DIGEST + _ID * (before + count)
        known = array("i", data[_DIGEST:end])
        if tuple(known[:before]) != ids[:before]:
            return 0, b""
        with contextlib.suppress(OSError):
            os.utime(self._folder(binding.kept_as))
        pairs = zip(known[before:], ids[before:], strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)), data[end:]

    def write(
        self, binding: Binding, ids: tuple[int, ...], token_bytes: int, block: Callable[[int, int], bytes]
    ) -> None:
        """Keep the blocks of ``ids`` that are not there yet; ``block`` gives the bytes of tokens start to end.

        Nothing is kept of what was deleted, nor past the bound. Raises OSError, when the disk is full for one.
        """
        told = array("i", ids).tobytes()
        ends = [(start, min(start + BLOCK, len(ids))) for start in range(0, len(ids), BLOCK)]
        paths = {self._path(binding, start // BLOCK): (start, end) for start, end in ends}
        missing = {path: part for path, part in paths.items() if not _holds(path, told[: _ID * part[1]])}
        needed = sum(_DIGEST + _ID * end + token_bytes * (end - start) for start, end in missing.values())
        folder = self._folder(binding.kept_as)
        with self._lock:
            if not missing or not self._make_room(needed, folder):
                return
        for path, (start, end) in missing.items():
            rest = told[: _ID * end] + block(start, end)
            with self._lock:
                if binding.kept_as in self._gone:
                    return
                _publish(path, _digest(binding, rest) + rest)
                os.utime(folder)

    def delete(self, kept_as: KeptAs) -> None:
        """Delete a conversation's blocks, or with an empty name all of a visitor's; they do not come again."""
        with self._lock:
            self._gone.add(kept_as)
            shutil.rmtree(self._folder(kept_as), ignore_errors=True)

    def _folder(self, kept_as: KeptAs) -> Path:
        folder = self.root / _name(kept_as.visitor)
        return folder / _name(kept_as.conversation) if kept_as.conversation else folder

    def _path(self, binding: Binding, index: int) -> Path:
        return self._folder(binding.kept_as) / _name(binding.identity) / f"{index:06d}"

    def _make_room(self, nbytes: int, mine: Path) -> bool:
        """Whether so many bytes more fit, after the conversations that were left alone longest are gone."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_leftovers(self.root, "*/*/*/*.part")
        kept = sorted((folder.stat().st_mtime, folder) for folder in self.root.glob("*/*") if folder.is_dir())
        sizes = {folder: _size(folder) for _, folder in kept}
        used = sum(sizes.values())
        limit = min(self._max_bytes, int(_SHARE_OF_FREE * (shutil.disk_usage(self.root).free + used)))
        oldest = time.time() - self._days * 86400 if self._days else 0.0
        for touched, folder in kept:
            if folder != mine and (touched < oldest or used + nbytes > limit):
                shutil.rmtree(folder, ignore_errors=True)
                used -= sizes[folder]
        return used + nbytes <= limit


def _digest(binding: Binding, rest: bytes | memoryview) -> bytes:
    found = hashlib.sha256(f"{binding.identity}\n{binding.kept_as}\n".encode())
    found.update(rest)
    return found.digest()


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _holds(path: Path, told: bytes) -> bool:
    """Whether a block for these ids is there already."""
    try:
        with path.open("rb") as file:
            file.seek(_DIGEST)
            return file.read(len(told)) == told
    except OSError:
        return False


def _publish(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # One name for all writers: what a killed one left is written over, and a block that two have mixed is no block.
    part = path.with_name(f"{path.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
    except OSError:  # a full disk would stay full
        part.unlink(missing_ok=True)
        raise
    with contextlib.suppress(FileNotFoundError, PermissionError):  # another writer has put it there, or is about to
        part.replace(path)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
