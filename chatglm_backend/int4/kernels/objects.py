"""Machine code of compiled kernels, kept on disk as object files, so that a later start need not compile.

A file counts only if its name tells of the same sources and compiler and its checksum is right;
whatever is wrong with it, the kernels are compiled again. Knows bytes and names; knows nothing of LLVM.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_SUFFIX = ".kernels"


@dataclass(frozen=True, slots=True)
class ObjectCode:
    """An object file's bytes and the names of the functions in it."""

    functions: tuple[str, ...]
    code: bytes


@lru_cache(maxsize=1)
def source_digest() -> str:
    """A digest of everything in this folder: kernels compiled from other sources are other kernels."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def kept_object(folder: Path, name: str, key: str) -> ObjectCode | None:
    """What was kept under ``name`` for exactly this ``key``, or ``None``."""
    try:
        head, _, code = _path(folder, name, key).read_bytes().partition(b"\n")
        facts = json.loads(head)
        found = ObjectCode(tuple(str(function) for function in facts["functions"]), code)
        return found if facts["sha256"] == _checksum(found) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_object(folder: Path, name: str, key: str, compiled: ObjectCode) -> None:
    """Keep ``compiled`` and drop what was kept under ``name`` for other keys. A folder that takes no files is left."""
    head = {"sha256": _checksum(compiled), "functions": compiled.functions}
    path = _path(folder, name, key)
    with contextlib.suppress(OSError):
        write_whole(path, json.dumps(head).encode() + b"\n" + compiled.code)
        for other in folder.glob(f"{name}.*{_SUFFIX}"):
            if other != path:
                other.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that other processes see whole or not at all, and its folder. Raises OSError; leaves no half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _path(folder: Path, name: str, key: str) -> Path:
    return folder / f"{name}.{hashlib.sha256(key.encode()).hexdigest()[:16]}{_SUFFIX}"


def _checksum(compiled: ObjectCode) -> str:
    return hashlib.sha256("\n".join((*compiled.functions, "")).encode() + compiled.code).hexdigest()
