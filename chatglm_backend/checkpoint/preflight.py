"""Is there room? Disk and memory, the limits of containers counted, before anything long begins.

Only compares numbers; what a conversion needs is estimated from the config.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from chatglm_backend.errors import NotEnoughDisk, NotEnoughMemory

__all__ = ["Room", "available_memory", "free_disk"]

DiskProbe = Callable[[Path], int]
MemoryProbe = Callable[[], int]
_UNLIMITED = 1 << 60


def free_disk(path: Path) -> int:
    """Free bytes where ``path`` is, or will be."""
    existing = path.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return shutil.disk_usage(existing).free


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new allocation can take: the machine's available memory, or less under a cgroup limit."""
    return min(psutil.virtual_memory().available, _cgroup_room(root))


@dataclass(frozen=True, slots=True)
class Room:
    """The two questions, with probes that tests replace."""

    disk: DiskProbe = free_disk
    memory: MemoryProbe = available_memory

    def need_disk(self, path: Path, nbytes: int) -> None:
        """Raise NotEnoughDisk unless ``nbytes`` are free at ``path``."""
        free = self.disk(path)
        if free < nbytes:
            raise NotEnoughDisk(path=path, free_gb=free / 1e9, needed_gb=nbytes / 1e9)

    def need_memory(self, nbytes: int) -> None:
        """Raise NotEnoughMemory unless ``nbytes`` can be allocated."""
        free = self.memory()
        if free < nbytes:
            raise NotEnoughMemory(free_gb=free / 1e9, needed_gb=nbytes / 1e9)


def _cgroup_room(root: Path) -> int:
    """The tightest room of this process's cgroups, versions 1 and 2, up to the root."""
    room = _UNLIMITED
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            base, limit, usage = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts), -1, -1):
            room = min(room, _folder_room(base.joinpath(*parts[:depth]), limit, usage))
    return room


def _folder_room(folder: Path, limit: str, usage: str) -> int:
    most = _read(folder / limit).strip()
    if not most.isdigit():
        return _UNLIMITED
    used = _read(folder / usage).strip()
    # File pages count as used, but the system takes them back when asked.
    reclaimable = 0
    for line in _read(folder / "memory.stat").splitlines():
        key, _, value = line.partition(" ")
        if key in ("inactive_file", "active_file") and value.strip().isdigit():
            reclaimable += int(value)
    return max(int(most) - max(int(used or "0") - reclaimable, 0), 0) if used.isdigit() or not used else _UNLIMITED


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
