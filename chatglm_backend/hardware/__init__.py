"""The machine: sockets, cores, limits, memory, CPU features — and the thread plan made from them.

Standard library only, but for what LLVM says of a Windows machine's CPU. Knows nothing of models, torch or the page.
"""

from __future__ import annotations

from chatglm_backend.hardware.cpulist import format_cpulist, parse_cpulist
from chatglm_backend.hardware.detect import read_machine
from chatglm_backend.hardware.libraries import Allocator, PreloadLibraries, find_libraries
from chatglm_backend.hardware.linux import read_linux
from chatglm_backend.hardware.machine import LogicalCpu, Machine, NumaNode
from chatglm_backend.hardware.plan import (
    PLANNED_THREADS,
    Profile,
    ThreadPlan,
    Wishes,
    default_profile,
    plan_threads,
    user_threads,
)
from chatglm_backend.hardware.report import HardwareReport, hints, report

__all__ = [
    "PLANNED_THREADS",
    "Allocator",
    "HardwareReport",
    "LogicalCpu",
    "Machine",
    "NumaNode",
    "PreloadLibraries",
    "Profile",
    "ThreadPlan",
    "Wishes",
    "default_profile",
    "find_libraries",
    "format_cpulist",
    "hints",
    "parse_cpulist",
    "plan_threads",
    "read_linux",
    "read_machine",
    "report",
    "user_threads",
]
