"""The limits that containers and service managers set: CPU quota, CPU set and memory, cgroup v1 and v2.

A limit holds for every group below it, so each one is looked for from the process's own group
up to the mount point, and the tightest counts. Nothing here raises on odd trees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from chatglm_backend.hardware.cpulist import parse_cpulist

_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """``quota_cpus`` in CPUs, memory in bytes; ``None`` means that nothing is set."""

    quota_cpus: float | None = None
    cpus: tuple[int, ...] | None = None
    memory_limit: int | None = None
    memory_free: int | None = None


def read_text(path: Path) -> str:
    """Return a file's text without surrounding space, or nothing when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return ""


def read_cgroup(root: Path) -> CgroupLimits:
    """Read the limits of this process's groups below ``root`` (``/`` on a live machine)."""
    quotas: list[float] = []
    memory: list[tuple[int, int]] = []
    cpus: tuple[int, ...] | None = None
    for controllers, group, mount in _own_groups(root):
        for folder in _upwards(group, mount):
            quota = _quota(folder) if controllers & {"", "cpu"} else None
            if quota is not None:
                quotas.append(quota)
            limit = _memory(folder) if controllers & {"", "memory"} else None
            if limit is not None:
                memory.append(limit)
            if cpus is None and controllers & {"", "cpuset"}:
                cpus = _cpuset(folder)
    tightest = min(memory, default=None)
    return CgroupLimits(
        quota_cpus=min(quotas, default=None),
        cpus=cpus,
        memory_limit=tightest[0] if tightest else None,
        memory_free=min((free for _, free in memory), default=None),
    )


def _own_groups(root: Path) -> Iterator[tuple[frozenset[str], Path, Path]]:
    """Yield (controllers, own group's folder, mount point); the empty controller name stands for cgroup v2."""
    mounts = list(_mounts(root))
    for line in read_text(root / "proc/self/cgroup").splitlines():
        fields = line.split(":", 2)
        if len(fields) != 3:
            continue
        controllers = frozenset(fields[1].split(","))
        for mounted, inside, mount in mounts:
            if controllers & mounted:
                yield controllers, mount / _below(fields[2], inside), mount


def _mounts(root: Path) -> Iterator[tuple[frozenset[str], str, Path]]:
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3 or not kind[0].startswith("cgroup"):
            continue
        mounted = frozenset({""}) if kind[0] == "cgroup2" else frozenset(kind[2].split(","))
        yield mounted, fields[3], root / fields[4].lstrip("/")


def _below(group: str, inside: str) -> str:
    """Return the group's path below the mount, which shows only what lies inside ``inside``."""
    path = PurePosixPath(group)
    if ".." in path.parts:
        return ""
    if path.is_relative_to(inside):
        return str(path.relative_to(inside))
    return str(path).lstrip("/")


def _upwards(folder: Path, top: Path) -> Iterator[Path]:
    while folder != top and top in folder.parents:
        if folder.is_dir():
            yield folder
        folder = folder.parent
    yield top


def _quota(folder: Path) -> float | None:
    words = read_text(folder / "cpu.max").split()
    if not words:
        words = [read_text(folder / "cpu.cfs_quota_us"), read_text(folder / "cpu.cfs_period_us")]
    quota = _number(words[0])
    period = _number(words[1]) if len(words) > 1 else 100_000
    return quota / period if quota and period else None


def _memory(folder: Path) -> tuple[int, int] | None:
    """Return (limit, what is still free below it), counting file pages the kernel can drop as free."""
    limits = [_number(read_text(folder / name)) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    known = [limit for limit in limits if limit and limit < _UNLIMITED]
    if not known:
        return None
    limit = min(known)
    used = _number(read_text(folder / "memory.current")) or _number(read_text(folder / "memory.usage_in_bytes")) or 0
    stat = dict(line.partition(" ")[::2] for line in read_text(folder / "memory.stat").splitlines())
    droppable = sum(
        max(_number(stat.get(name, "")) or 0, _number(stat.get(f"total_{name}", "")) or 0)
        for name in ("inactive_file", "active_file")
    )
    return limit, max(0, min(limit, limit - used + droppable))


def _cpuset(folder: Path) -> tuple[int, ...] | None:
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus"):
        cpus = parse_cpulist(read_text(folder / name))
        if cpus:
            return cpus
    return None


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdecimal() else None
