"""Reads a Windows machine: the processor table of the system, its memory and its CPU features.

The table is a buffer of ``SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX`` records; parsing it is pure, so it is
tested on any system. The calls into kernel32 happen only on Windows. Job-object limits are not read.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping

from chatglm_backend.hardware.machine import LogicalCpu, Machine, NumaNode
from chatglm_backend.sentences import Sentence

_CORE, _NODE, _PACKAGE = 0, 1, 3
_RELATION_ALL = 0xFFFF
_GROUP_SIZE = 64
# IsProcessorFeaturePresent numbers and Linux's names for them
_FEATURES = {10: "sse2", 36: "ssse3", 37: "sse4_1", 38: "sse4_2", 39: "avx", 40: "avx2", 41: "avx512f"}
# LLVM's names of features that Linux writes otherwise
_RENAMED = {
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avxvnni": "avx_vnni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
}


def read_windows() -> Machine:
    """Return this Windows machine; what cannot be asked is assumed and named in ``notes``. Raises OSError elsewhere."""
    if sys.platform != "win32":
        raise OSError("this is not Windows")
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    notes: list[Sentence] = []
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    if not kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        notes.append(Sentence("machine.memory_unknown"))
    flags = _flags(kernel32, notes)
    table, affinity = _processor_table(kernel32), _affinity(kernel32)
    return windows_machine(table, affinity, flags, (status.total, status.available), platform.processor(), notes)


def windows_machine(
    table: bytes,
    affinity: tuple[int, ...] | None,
    flags: frozenset[str],
    memory: tuple[int, int],
    model_name: str = "",
    notes: Iterable[Sentence] = (),
) -> Machine:
    """Build the machine from the system's answers. ``memory`` in bytes: all, free; ``affinity`` ``None``: no limit."""
    notes, (total, available) = list(notes), memory
    cpus = parse_processor_table(table)
    if not cpus:
        cpus = tuple(LogicalCpu(number, number, 0) for number in range(os.cpu_count() or 1))
        notes.append(Sentence("machine.no_table"))
    numbers = {cpu.number for cpu in cpus}
    allowed = numbers if affinity is None else numbers & set(affinity)
    if not allowed:
        allowed = numbers
        notes.append(Sentence("machine.no_online", name="affinity mask"))
    if max(numbers) >= _GROUP_SIZE:
        notes.append(Sentence("machine.many_cpus"))
    node_numbers = sorted({cpu.node for cpu in cpus if cpu.node is not None})
    nodes = tuple(
        NumaNode(n, tuple(cpu.number for cpu in cpus if cpu.node == n), total // len(node_numbers))
        for n in node_numbers
    )
    return Machine(
        system="Windows",
        architecture=platform.machine(),
        model_name=model_name,
        cpus=cpus,
        allowed=tuple(sorted(allowed)),
        flags=flags,
        nodes=nodes,
        quota_cpus=None,
        memory_total=total,
        memory_available=available,
        memory_limit=None,
        notes=tuple(notes),
    )


def parse_processor_table(table: bytes) -> tuple[LogicalCpu, ...]:
    """Return the CPUs of a ``GetLogicalProcessorInformationEx`` buffer; a CPU's number is group × 64 + bit."""
    cores: list[tuple[int, list[int]]] = []
    socket_of: dict[int, int] = {}
    node_of: dict[int, int] = {}
    sockets = 0
    for kind, record in _records(table):
        if kind == _CORE:
            cores.append((record[9], _cpus_of(record)))
        elif kind == _PACKAGE:
            socket_of.update(dict.fromkeys(_cpus_of(record), sockets))
            sockets += 1
        elif kind == _NODE:
            number = struct.unpack_from("<I", record, 8)[0]
            node_of.update(dict.fromkeys(_cpus_of(record), number))
    best = max((efficiency for efficiency, _ in cores), default=0)
    found = [
        LogicalCpu(cpu, min(members), socket_of.get(cpu, 0), node_of.get(cpu), efficiency < best)
        for efficiency, members in cores
        for cpu in members
    ]
    return tuple(sorted(found, key=lambda cpu: cpu.number))


def _records(table: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 8 <= len(table):
        kind, size = struct.unpack_from("<II", table, offset)
        if size < 32 or offset + size > len(table):
            return
        yield kind, table[offset : offset + size]
        offset += size


def _cpus_of(record: bytes) -> list[int]:
    """Return the CPUs of a core, package or node record: a count at byte 30, then 16-byte group masks."""
    (count,) = struct.unpack_from("<H", record, 30)
    numbers: list[int] = []
    for index in range(max(count, 1)):  # older Windows leaves the node records' count at 0 with one mask
        offset = 32 + 16 * index
        if offset + 16 > len(record):
            break
        mask, group = struct.unpack_from("<QH", record, offset)
        numbers += [group * _GROUP_SIZE + bit for bit in range(_GROUP_SIZE) if mask >> bit & 1]
    return numbers


class _MemoryStatus(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("rest", ctypes.c_uint64 * 5),
    )


def _processor_table(kernel32: ctypes.CDLL) -> bytes:
    size = ctypes.c_uint32(0)
    kernel32.GetLogicalProcessorInformationEx(_RELATION_ALL, None, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(max(size.value, 1))
    if not kernel32.GetLogicalProcessorInformationEx(_RELATION_ALL, buffer, ctypes.byref(size)):
        return b""
    return buffer.raw[: size.value]


def _affinity(kernel32: ctypes.CDLL) -> tuple[int, ...] | None:
    """Return this process's CPUs when it runs in one group of 64, else ``None``."""
    kernel32.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel32.GetCurrentProcess())
    groups, count = (ctypes.c_uint16 * 64)(), ctypes.c_uint16(64)
    if not kernel32.GetProcessGroupAffinity(process, ctypes.byref(count), groups) or count.value != 1:
        return None
    mask, system = ctypes.c_size_t(), ctypes.c_size_t()
    if not kernel32.GetProcessAffinityMask(process, ctypes.byref(mask), ctypes.byref(system)) or not mask.value:
        return None
    return tuple(groups[0] * _GROUP_SIZE + bit for bit in range(_GROUP_SIZE) if mask.value >> bit & 1)


def linux_names(features: Mapping[str, bool]) -> frozenset[str]:
    """The CPU features that LLVM found switched on, by the names of Linux."""
    present = (name for name, on in features.items() if on)
    return frozenset(_RENAMED.get(name, name.replace("-", "_")) for name in present)


def _flags(kernel32: ctypes.CDLL, notes: list[Sentence]) -> frozenset[str]:
    known = frozenset(name for number, name in _FEATURES.items() if kernel32.IsProcessorFeaturePresent(number))
    try:
        from llvmlite.binding import get_host_cpu_features
    except ImportError:  # the launcher runs before anything is installed, and needs none of them
        notes.append(Sentence("machine.no_llvm"))
        return known
    return known | linux_names(get_host_cpu_features())
