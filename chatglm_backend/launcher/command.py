"""Turns a thread plan into the command and variables that start the page, and runs it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

from chatglm_backend.hardware import PLANNED_THREADS, Machine, ThreadPlan
from chatglm_backend.sentences import Sentence

_NODE_MEMORY_NEEDED = 8_000_000_000


def numactl_prefix(plan: ThreadPlan, machine: Machine) -> tuple[str, ...]:
    """Return the numactl arguments of a plan, or nothing when memory nodes do not matter."""
    if not plan.numa_nodes:
        return ()
    nodes = ",".join(str(number) for number in plan.numa_nodes)
    memory = sum(node.memory for node in machine.nodes if node.number in plan.numa_nodes)
    if len(plan.numa_nodes) > 1:
        policy = f"--interleave={nodes}"
    elif memory < _NODE_MEMORY_NEEDED:
        policy = f"--preferred={nodes}"  # a strict binding would run out while other nodes are free
    else:
        policy = f"--membind={nodes}"
    return (f"--physcpubind={plan.cpulist}", policy)


def usable_numactl(arguments: Sequence[str]) -> tuple[str | None, Sentence | None]:
    """Return numactl's path when it accepts these arguments here, else ``None`` and why not.

    Containers often forbid memory policies: numactl would then refuse to start the page.
    """
    numactl = shutil.which("numactl")
    if numactl is None:
        return None, Sentence("numactl.missing")
    try:
        done = subprocess.run(  # noqa: S603 - a tool found on PATH, with numbers of our own
            [numactl, *arguments, sys.executable, "-c", "pass"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, Sentence("numactl.fails")
    if done.returncode != 0:
        return None, Sentence("numactl.not_permitted")
    return numactl, None


def page_environment(plan: ThreadPlan, *, threads_asked: bool) -> dict[str, str]:
    """Return the variables to add for the page."""
    env = dict(plan.env)
    if "OMP_NUM_THREADS" in env:
        env[PLANNED_THREADS] = env["OMP_NUM_THREADS"]
    if threads_asked:
        env["CHATGLM_THREADS"] = str(plan.threads)
    if os.name == "nt":
        env["PYTHONUTF8"] = "1"
    return env


def printed_environment(env: Mapping[str, str], shell: Literal["sh", "powershell"], prefix: Sequence[str] = ()) -> str:
    """Return lines that set the variables in a shell, for ``eval`` or ``Invoke-Expression``."""
    lines: list[str] = []
    for name, value in sorted(env.items()):
        if shell == "powershell":
            quoted = value.replace("'", "''")
            lines.append(f"$env:{name} = '{quoted}'")
        else:
            lines.append(f"export {name}={shlex.quote(value)}")
    if prefix:
        lines.append(f"# and start with: numactl {shlex.join(prefix)} python webui.py")
    return "".join(f"{line}\n" for line in lines)


def bind_this_process(cpus: Sequence[int]) -> bool:
    """Hold this process, and what it starts, on these CPUs. Returns whether the system agreed."""
    try:
        if sys.platform == "win32":
            if max(cpus) >= 64:
                return False
            kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
            kernel32.GetCurrentProcess.restype = ctypes.c_void_p
            process = ctypes.c_void_p(kernel32.GetCurrentProcess())
            mask = ctypes.c_size_t(sum(1 << cpu for cpu in cpus))
            return bool(kernel32.SetProcessAffinityMask(process, mask))
        os.sched_setaffinity(0, cpus)
    except (OSError, AttributeError, ValueError):
        return False
    return True


def start_page(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Become the page (Linux), or run it and return its exit code (Windows)."""
    if os.name != "nt":
        os.execve(command[0], list(command), dict(env))  # noqa: S606 - no shell wanted
    process = subprocess.Popen(list(command), env=dict(env))  # noqa: S603 - our own interpreter
    while process.poll() is None:
        with contextlib.suppress(KeyboardInterrupt):  # the console sends Ctrl+C to the page too: wait for its end
            process.wait()
    return process.returncode
