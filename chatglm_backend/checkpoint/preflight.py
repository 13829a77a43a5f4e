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
from chatglm_backend.hardware.cgroup import read_cgroup
from chatglm_backend.units import size


def free_disk(path: Path) -> int:
    """Free bytes where ``path`` is, or will be."""
    existing = path.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    return shutil.disk_usage(existing).free


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that a new allocation can take: the machine's available memory, or less under a cgroup limit."""
    free, granted = psutil.virtual_memory().available, read_cgroup(root).memory_free
    return free if granted is None else min(free, granted)


@dataclass(frozen=True, slots=True)
class Room:
    """The two questions, with probes that tests replace."""

    disk: Callable[[Path], int] = free_disk
    memory: Callable[[], int] = available_memory

    def need_disk(self, path: Path, nbytes: int) -> None:
        """Raise NotEnoughDisk unless ``nbytes`` are free at ``path``."""
        free = self.disk(path)
        if free < nbytes:
            raise NotEnoughDisk(path=path, free=size(free), needed=size(nbytes))

    def need_memory(self, nbytes: int) -> None:
        """Raise NotEnoughMemory unless ``nbytes`` can be allocated."""
        free = self.memory()
        if free < nbytes:
            raise NotEnoughMemory(free=size(free), needed=size(nbytes))
