"""Decides how many threads run, where, and with which environment, and says why.

Pure: a machine, the user's wishes and environment in, a ``ThreadPlan`` out. Starts and binds nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from chatglm_backend.errors import ConfigError
from chatglm_backend.hardware.cpulist import format_cpulist
from chatglm_backend.hardware.libraries import Allocator
from chatglm_backend.hardware.machine import LogicalCpu, Machine
from chatglm_backend.sentences import Sentence

Profile = Literal["server", "client"]

PLANNED_THREADS = "CHATGLM_PLANNED_THREADS"
"""Set by the launcher, so that its ``OMP_NUM_THREADS`` is not taken for the user's own."""

_MOST_THREADS = 1024
_JEMALLOC_CONF = "background_thread:true,metadata_thp:auto,dirty_decay_ms:30000,muzzy_decay_ms:30000"
_SERVER_NAMES = re.compile(r"xeon|epyc", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user asked for. ``None`` leaves the choice to the machine."""

    profile: Profile | None = None
    threads: int | None = None
    allocator: Allocator = "none"
    intel_openmp: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and not 1 <= self.threads <= _MOST_THREADS:
            raise ConfigError(
                name="threads", value=self.threads, reason=Sentence("number.int", low=1, high=_MOST_THREADS)
            )


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """How to run.

    ``cpus`` are the CPUs for the threads, best first; ``bind`` says whether the process is held on them;
    ``numa_nodes`` are the memory nodes they belong to when that matters;
    ``env`` holds the variables to add to the environment, never one the user has set himself.
    """

    threads: int
    cpus: tuple[int, ...]
    profile: Profile
    reasons: tuple[Sentence, ...]
    env: Mapping[str, str]
    numa_nodes: tuple[int, ...] = ()
    bind: bool = False

    @property
    def cpulist(self) -> str:
        """The CPUs as taskset and numactl write them."""
        return format_cpulist(self.cpus)


@dataclass(slots=True)
class _Choice:
    cpus: list[LogicalCpu]
    reasons: list[Sentence] = field(default_factory=list)


def default_profile(machine: Machine) -> tuple[Profile, Sentence]:
    """Return the profile that fits the machine, and why."""
    if machine.system == "Windows":
        return "client", Sentence("plan.windows")
    if machine.hybrid:
        return "client", Sentence("plan.hybrid")
    if len(machine.sockets) > 1:
        return "server", Sentence("plan.sockets", count=len(machine.sockets))
    if len(machine.nodes) > 1:
        return "server", Sentence("plan.nodes", count=len(machine.nodes))
    if _SERVER_NAMES.search(machine.model_name):
        return "server", Sentence("plan.server_cpu")
    return "client", Sentence("plan.one_socket")


def plan_threads(
    machine: Machine,
    wishes: Wishes | None = None,
    environ: Mapping[str, str] | None = None,
    libraries: Mapping[str, Path] | None = None,
) -> ThreadPlan:
    """Plan one thread per physical core that may be used, within the quota; the user's numbers come first."""
    wishes, environ = wishes or Wishes(), environ or {}
    profile, why = (wishes.profile, Sentence("plan.asked")) if wishes.profile else default_profile(machine)
    choice = _one_socket(machine) if profile == "server" else _all_cores(machine)
    choice.reasons.insert(0, Sentence("plan.profile", profile=profile, why=why))
    threads = _count(machine, choice, wishes, environ)
    cpus = tuple(cpu.number for cpu in choice.cpus[:threads])
    nodes = _nodes(machine, cpus) if profile == "server" else ()
    fewer_big = machine.hybrid and threads < len(choice.cpus)
    bind = threads <= len(choice.cpus) and ((profile == "server" and len(machine.sockets) > 1) or fewer_big)
    if bind or nodes:
        choice.reasons.append(Sentence("plan.held", cpus=format_cpulist(cpus)))
    if threads > len(choice.cpus):
        cpus, nodes, bind = machine.allowed, (), False
    env = _variables(machine, threads, wishes, environ, libraries or {}, choice.reasons)
    return ThreadPlan(threads, cpus, profile, tuple(choice.reasons), env, nodes, bind or bool(nodes))


def user_threads(environ: Mapping[str, str]) -> int | None:
    """Return the user's ``OMP_NUM_THREADS`` (its first number), or ``None`` when unset or unusable."""
    first = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and 1 <= int(first) <= _MOST_THREADS else None


def _one_per_core(cpus: tuple[LogicalCpu, ...]) -> list[LogicalCpu]:
    """Return the first allowed CPU of each physical core, big cores first."""
    first: dict[int, LogicalCpu] = {}
    for cpu in cpus:
        first.setdefault(cpu.core, cpu)
    return sorted(first.values(), key=lambda cpu: (cpu.efficient, cpu.number))


def _one_socket(machine: Machine) -> _Choice:
    cores = _one_per_core(machine.usable)
    per_socket = Counter(cpu.socket for cpu in cores)
    best = max(per_socket, key=lambda socket: (per_socket[socket], -socket))
    chosen = [cpu for cpu in cores if cpu.socket == best]
    where = Sentence("plan.socket", number=best) if len(machine.sockets) > 1 else Sentence("plan.the_socket")
    return _Choice(chosen, [Sentence("plan.socket_cores", cores=len(chosen), where=where)])


def _all_cores(machine: Machine) -> _Choice:
    cores = _one_per_core(machine.usable)
    small = sum(cpu.efficient for cpu in cores)
    text = Sentence("plan.cores", cores=len(cores))
    if small and small < len(cores):
        text = Sentence("plan.hybrid_cores", big=len(cores) - small, small=small)
    reasons = [text]
    if len(machine.allowed) < len(machine.cpus):
        reasons.append(Sentence("plan.allowed", allowed=len(machine.allowed), cpus=len(machine.cpus)))
    return _Choice(cores, reasons)


def _count(machine: Machine, choice: _Choice, wishes: Wishes, environ: Mapping[str, str]) -> int:
    available = len(choice.cpus)
    if wishes.threads is not None:
        choice.reasons.append(Sentence("plan.threads_asked", threads=_threads(wishes.threads)))
        if wishes.threads > available:
            choice.reasons.append(Sentence("plan.few_cores", cores=available))
        return wishes.threads
    own = user_threads(environ)
    if own is not None:
        planned = environ.get(PLANNED_THREADS) == str(own)
        choice.reasons.append(Sentence(f"plan.threads_{'planned' if planned else 'kept'}", threads=_threads(own)))
        return own
    if machine.quota_cpus is not None and machine.quota_cpus < available:
        # Rounded down: a thread too many has the whole group stopped until the next period.
        threads = max(1, int(machine.quota_cpus))
        choice.reasons.append(Sentence("plan.threads_quota", threads=_threads(threads), quota=machine.quota_cpus))
        return threads
    return available


def _nodes(machine: Machine, cpus: tuple[int, ...]) -> tuple[int, ...]:
    """Return the memory nodes of these CPUs; nothing when the machine leaves no choice."""
    if len(machine.nodes) < 2:
        return ()
    used = set(cpus)
    return tuple(node.number for node in machine.nodes if used & set(node.cpus))


def _variables(
    machine: Machine,
    threads: int,
    wishes: Wishes,
    environ: Mapping[str, str],
    libraries: Mapping[str, Path],
    reasons: list[Sentence],
) -> dict[str, str]:
    wanted: dict[str, str] = {"NUMBA_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    preload: list[str] = []
    if machine.system == "Windows":
        wanted["KMP_BLOCKTIME"] = "1"  # torch for Windows brings Intel's OpenMP
    else:
        preload = _preload(wishes, environ, libraries, reasons)
        if any("libiomp5" in path for path in preload):
            wanted |= {"KMP_BLOCKTIME": "1", "KMP_AFFINITY": "granularity=fine,none"}
        if any("jemalloc" in path for path in preload):
            wanted["MALLOC_CONF"] = _JEMALLOC_CONF
    env = {name: value for name, value in wanted.items() if name not in environ}
    if wishes.threads is not None or user_threads(environ) is None:
        env["OMP_NUM_THREADS"] = str(threads)
    if wishes.threads is not None:
        env["NUMBA_NUM_THREADS"] = str(threads)
    if preload:
        own = environ.get("LD_PRELOAD", "")
        env["LD_PRELOAD"] = ":".join([*preload, own] if own else preload)
    return dict(sorted(env.items()))


def _preload(
    wishes: Wishes, environ: Mapping[str, str], libraries: Mapping[str, Path], reasons: list[Sentence]
) -> list[str]:
    asked: list[str] = [] if wishes.allocator == "none" else [wishes.allocator]
    asked += ["libiomp5"] if wishes.intel_openmp else []
    chosen: list[str] = []
    for name in asked:
        path = libraries.get(name)
        if path is None:
            reasons.append(Sentence("plan.preload_missing", name=name))
        elif re.search(r"[\s:]", str(path)):
            reasons.append(Sentence("plan.preload_path", name=name, path=path))
        elif path.name in environ.get("LD_PRELOAD", ""):
            reasons.append(Sentence("plan.preload_already", name=name))
        else:
            chosen.append(str(path))
            reasons.append(Sentence("plan.preloaded", name=name))
    return chosen


def _threads(count: int) -> Sentence:
    return Sentence("plan.one_thread") if count == 1 else Sentence("plan.threads", count=count)
