"""Reading JSON that people and other programs wrote: one reader, with bounds, for every room.

Byte order marks of Windows editors are no part of the text, a git-lfs pointer is told from the file
itself, and a hostile file is one sentence. Standard library only; knows no file's meaning.
"""

from __future__ import annotations

import json
from pathlib import Path

from chatglm_backend.errors import CheckpointError, DamagedFile, LfsPointerFile, MissingFile
from chatglm_backend.sentences import Sentence

_LFS_START = b"version https://git-lfs.github.com/spec/"
_MAX_BYTES = 64 << 20
_MAX_DEPTH = 64


def is_lfs_pointer(path: Path) -> bool:
    """Whether git left a pointer here in place of the file."""
    with path.open("rb") as file:
        return file.read(len(_LFS_START)) == _LFS_START


def read_json(path: Path, *, optional: bool = False) -> dict[str, object]:
    """Read a JSON object; an empty one where ``optional`` and there is no file.

    Raises MissingFile, LfsPointerFile, DamagedFile, or CheckpointError where the system forbids it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        if optional:
            return {}
        raise MissingFile(path=path) from None
    except PermissionError as error:
        raise CheckpointError(path=path, reason=Sentence("file.not_permitted")) from error
    except OSError as error:
        raise DamagedFile(path=path, reason=error.strerror or Sentence("file.unreadable")) from error
    if data.startswith(_LFS_START):
        raise LfsPointerFile(path=path)
    if len(data) > _MAX_BYTES:
        raise DamagedFile(path=path, reason=Sentence("file.too_large"))
    try:
        value = parse_json(data)
    except ValueError:
        raise DamagedFile(path=path, reason=Sentence("file.invalid_json")) from None
    if not isinstance(value, dict):
        raise DamagedFile(path=path, reason=Sentence("file.not_object"))
    return value


def parse_json(data: bytes) -> object:
    """The value of a JSON text in UTF-8 or UTF-16, with or without a byte order mark.

    Raises ValueError, also for one that is nested too deeply to be walked safely.
    """
    try:
        value = json.loads(data.decode(json.detect_encoding(data)))
    except RecursionError:
        raise ValueError from None
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return value
    raise ValueError
