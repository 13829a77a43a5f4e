"""Windows' rules for files in use, on Linux: what this process has open or mapped is not renamed, replaced or deleted.

Python opens files on Windows so that nobody may delete them meanwhile, and no mapped file gives way to another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CALLS = ("replace", "rename", "unlink", "remove")


def used_here() -> set[Path]:
    """The regular files that this process has open or mapped."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    found = {Path(line.split(maxsplit=5)[5]) for line in maps if "/" in line}
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            found.add(descriptor.readlink())
    return {path for path in found if path.is_file()}


def forbid_what_windows_forbids(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the system's calls refuse as Windows does; returns what was refused, as it happens."""
    refused: list[str] = []

    def guarded(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*paths: str | os.PathLike[str], **options: Any) -> Any:
            below = [fd for key, fd in options.items() if key in ("dir_fd", "src_dir_fd") and fd is not None]
            base = Path(f"/proc/self/fd/{below[0]}").readlink() if below else Path()
            for path in paths:
                full = (base / path).resolve()
                if any(used == full or full in used.parents for used in used_here()):
                    refused.append(f"{name} {full}")
                    raise PermissionError(errno.EACCES, "The process cannot access the file", os.fspath(path))
            return real(*paths, **options)

        return call

    early = getattr(pathlib, "_NormalAccessor", object)  # where Python 3.10 keeps what pathlib calls
    for name in CALLS:
        call = guarded(name, getattr(os, name))
        monkeypatch.setattr(os, name, call)
        if hasattr(early, name):
            monkeypatch.setattr(early, name, staticmethod(call))
    return refused
