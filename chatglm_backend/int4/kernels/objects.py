"""Machine code of compiled kernels, kept on disk as object files, so that a later start need not compile.

A file counts only if its name tells of the same sources and compiler and its checksum is right;
whatever is wrong with it, the kernels are compiled again. The same holds for a folder that another package fills.
Knows bytes and names; knows nothing of LLVM.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from chatglm_backend.leftovers import remove_leftovers

_SUFFIX = ".kernels"
_SEAL = "checksums.json"


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
    remove_leftovers(path.parent, "*.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def seal(folder: Path) -> None:
    """Note the checksums of all files in a folder that another package keeps. Raises OSError."""
    write_whole(folder / _SEAL, json.dumps(_checksums(folder)).encode())


def sealed(folder: Path) -> bool:
    """Whether a folder holds exactly what it held when it was sealed."""
    try:
        return bool(json.loads((folder / _SEAL).read_bytes()) == _checksums(folder))
    except (OSError, ValueError):
        return False


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _SEAL)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _path(folder: Path, name: str, key: str) -> Path:
    return folder / f"{name}.{hashlib.sha256(key.encode()).hexdigest()[:16]}{_SUFFIX}"


def _checksum(compiled: ObjectCode) -> str:
    return hashlib.sha256("\n".join((*compiled.functions, "")).encode() + compiled.code).hexdigest()
