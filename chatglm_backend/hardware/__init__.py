"""The machine: sockets, cores, limits, memory, CPU features — and the thread plan made from them.

Standard library only, but for what LLVM says of a Windows machine's CPU. Knows nothing of models, torch or the page.
"""

from __future__ import annotations

from chatglm_backend.hardware.detect import read_machine
from chatglm_backend.hardware.libraries import Allocator, find_libraries
from chatglm_backend.hardware.machine import Machine
from chatglm_backend.hardware.plan import PLANNED_THREADS, Profile, ThreadPlan, Wishes, plan_threads
from chatglm_backend.hardware.report import report

__all__ = [
    "PLANNED_THREADS",
    "Allocator",
    "Machine",
    "Profile",
    "ThreadPlan",
    "Wishes",
    "find_libraries",
    "plan_threads",
    "read_machine",
    "report",
]
