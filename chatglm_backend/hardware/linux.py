"""Reads a Linux machine from ``/proc`` and ``/sys`` below any root, so that recorded trees read the same way.

Never raises: what is missing is replaced by the plainest assumption and named in ``Machine.notes``.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path

from chatglm_backend.hardware.cgroup import read_cgroup, read_text
from chatglm_backend.hardware.cpulist import parse_cpulist
from chatglm_backend.hardware.machine import LogicalCpu, Machine, NumaNode
from chatglm_backend.sentences import Sentence

_SMALL_CORE_SHARE = 0.75


def read_linux(root: Path = Path("/"), affinity: Iterable[int] | None = None) -> Machine:
    """Return the machine below ``root``. ``affinity`` holds the CPUs this process may use (``None``: all)."""
    notes: list[Sentence] = []
    info = _cpuinfo(root)
    nodes, node_of = _nodes(root)
    cpus = _cpus(root, info, node_of, notes)
    limits = read_cgroup(root)
    allowed = {cpu.number for cpu in cpus}
    for name, numbers in (("affinity mask", affinity), ("cpuset", limits.cpus)):
        narrowed = allowed & set(numbers) if numbers is not None else allowed
        if narrowed:
            allowed = narrowed
        else:
            notes.append(Sentence("machine.no_online", name=name))
    total, available = _memory(root, notes)
    if limits.memory_limit is not None and limits.memory_limit < total:
        total = limits.memory_limit
        available = min(available, limits.memory_free if limits.memory_free is not None else total)
    return Machine(
        system="Linux",
        architecture=platform.machine(),
        model_name=info[0].get("model name", "") if info else "",
        cpus=cpus,
        allowed=tuple(sorted(allowed)),
        flags=frozenset(info[0].get("flags", "").split()) if info else frozenset(),
        nodes=nodes,
        quota_cpus=limits.quota_cpus,
        memory_total=total,
        memory_available=available,
        memory_limit=limits.memory_limit,
        notes=tuple(notes),
    )


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """Return one mapping of lower-case names per block of ``/proc/cpuinfo`` that names a processor."""
    blocks: list[dict[str, str]] = []
    for block in re.split(r"\n\s*\n", read_text(root / "proc/cpuinfo")):
        pairs = (line.partition(":") for line in block.splitlines())
        values = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if values.get("processor", "").isdecimal():
            blocks.append(values)
    return blocks


def _cpus(
    root: Path, info: list[dict[str, str]], node_of: dict[int, int], notes: list[Sentence]
) -> tuple[LogicalCpu, ...]:
    folder = root / "sys/devices/system/cpu"
    online = parse_cpulist(read_text(folder / "online"))
    if not online:
        online = tuple(sorted(int(block["processor"]) for block in info)) or tuple(range(os.cpu_count() or 1))
        notes.append(Sentence("machine.no_list"))
    small = _small_cores(root, folder, online)
    by_number = {int(block["processor"]): block for block in info}
    cpus: list[LogicalCpu] = []
    bare = 0
    for number in online:
        topology = folder / f"cpu{number}/topology"
        block = by_number.get(number, {})
        socket = _integer(read_text(topology / "physical_package_id"), block.get("physical id", ""))
        siblings = parse_cpulist(read_text(topology / "core_cpus_list") or read_text(topology / "thread_siblings_list"))
        online_siblings = [s for s in siblings if s in online]
        core = min(online_siblings, default=-1)
        if core < 0:
            core, bare = _core_from_cpuinfo(number, block, by_number), bare + 1
        cpus.append(LogicalCpu(number, core, max(socket, 0), node_of.get(number), number in small))
    if bare:
        notes.append(Sentence("machine.no_layout", count=bare))
    return tuple(cpus)


def _core_from_cpuinfo(number: int, block: dict[str, str], by_number: dict[int, dict[str, str]]) -> int:
    key = (block.get("physical id"), block.get("core id"))
    if None in key:
        return number
    same = [n for n, other in by_number.items() if (other.get("physical id"), other.get("core id")) == key]
    return min(same)


def _small_cores(root: Path, folder: Path, online: tuple[int, ...]) -> frozenset[int]:
    """Return the efficiency cores: named by the kernel's PMU lists, else by a clearly lower capacity."""
    big = parse_cpulist(read_text(root / "sys/devices/cpu_core/cpus"))
    named = [parse_cpulist(read_text(root / f"sys/devices/{pmu}/cpus")) for pmu in ("cpu_atom", "cpu_lowpower")]
    small = frozenset(number for numbers in named for number in numbers)
    if big and small:
        return small
    capacity = {number: _integer(read_text(folder / f"cpu{number}/cpu_capacity")) for number in online}
    most = max(capacity.values(), default=-1)
    return frozenset(n for n, value in capacity.items() if 0 < value < _SMALL_CORE_SHARE * most)


def _nodes(root: Path) -> tuple[tuple[NumaNode, ...], dict[int, int]]:
    """Return the nodes with CPUs and memory, and the node of each CPU."""
    folder = root / "sys/devices/system/node"
    nodes: list[NumaNode] = []
    node_of: dict[int, int] = {}
    for number in parse_cpulist(read_text(folder / "online")):
        cpus = parse_cpulist(read_text(folder / f"node{number}/cpulist"))
        node_of.update(dict.fromkeys(cpus, number))
        found = re.search(r"MemTotal:\s*(\d+) kB", read_text(folder / f"node{number}/meminfo"))
        memory = int(found.group(1)) * 1024 if found else 0
        if cpus and memory:
            nodes.append(NumaNode(number, cpus, memory))
    return tuple(nodes), node_of


def _memory(root: Path, notes: list[Sentence]) -> tuple[int, int]:
    text = read_text(root / "proc/meminfo")
    values = {name: int(kb) * 1024 for name, kb in re.findall(r"^(\w+):\s*(\d+) kB", text, re.MULTILINE)}
    if "MemTotal" not in values:
        notes.append(Sentence("machine.memory_unknown"))
    return values.get("MemTotal", 0), values.get("MemAvailable", values.get("MemFree", 0))


def _integer(*texts: str) -> int:
    for text in texts:
        if re.fullmatch(r"-?\d+", text):
            return int(text)
    return -1
