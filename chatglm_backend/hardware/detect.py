"""Reads the machine this process runs on. The only place that asks which system it is."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from chatglm_backend.hardware.linux import read_linux
from chatglm_backend.hardware.machine import LogicalCpu, Machine
from chatglm_backend.hardware.windows import read_windows
from chatglm_backend.sentences import Sentence


def read_machine() -> Machine:
    """Return this machine. Never raises: what cannot be read is assumed and named in ``notes``."""
    if sys.platform == "win32":
        return read_windows()
    if sys.platform.startswith("linux"):
        return read_linux(Path("/"), os.sched_getaffinity(0))
    count = os.cpu_count() or 1
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        model_name=platform.processor(),
        cpus=tuple(LogicalCpu(number, number, 0) for number in range(count)),
        allowed=tuple(range(count)),
        flags=frozenset(),
        nodes=(),
        quota_cpus=None,
        memory_total=0,
        memory_available=0,
        memory_limit=None,
        notes=(Sentence("machine.unsupported"),),
    )
