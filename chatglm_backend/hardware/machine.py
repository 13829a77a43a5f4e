"""What a machine is made of, as plain frozen values.

Standard library only. Knows nothing of how the facts were found or of what is done with them.
"""

from __future__ import annotations

from dataclasses import dataclass

from chatglm_backend.sentences import Sentence


@dataclass(frozen=True, slots=True)
class LogicalCpu:
    """One CPU as the system counts them.

    ``core`` is the lowest CPU number on the same physical core, ``socket`` the package number,
    ``node`` the NUMA node (``None`` when unknown), ``efficient`` true for the small cores of a hybrid CPU.
    """

    number: int
    core: int
    socket: int
    node: int | None = None
    efficient: bool = False


@dataclass(frozen=True, slots=True)
class NumaNode:
    """One online NUMA node that has both CPUs and memory. ``memory`` is in bytes."""

    number: int
    cpus: tuple[int, ...]
    memory: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything the thread plan and the report need.

    ``cpus`` are all online CPUs, ``allowed`` the numbers this process may run on (affinity and cpuset),
    ``quota_cpus`` the CPU time a cgroup grants in CPUs (``None``: no limit), memory in bytes with cgroup
    limits already counted in ``memory_total`` and ``memory_available``; ``memory_limit`` is the cgroup's
    limit alone. ``notes`` says what could not be read and what was assumed.
    """

    system: str
    architecture: str
    model_name: str
    cpus: tuple[LogicalCpu, ...]
    allowed: tuple[int, ...]
    flags: frozenset[str]
    nodes: tuple[NumaNode, ...]
    quota_cpus: float | None
    memory_total: int
    memory_available: int
    memory_limit: int | None
    notes: tuple[Sentence, ...] = ()

    @property
    def usable(self) -> tuple[LogicalCpu, ...]:
        """The CPUs this process may run on, in order of their number."""
        allowed = frozenset(self.allowed)
        return tuple(cpu for cpu in self.cpus if cpu.number in allowed)

    @property
    def sockets(self) -> tuple[int, ...]:
        """The numbers of all sockets, allowed or not."""
        return tuple(sorted({cpu.socket for cpu in self.cpus}))

    @property
    def physical_cores(self) -> int:
        """Physical cores of the whole machine."""
        return len({cpu.core for cpu in self.cpus})

    @property
    def usable_cores(self) -> int:
        """Physical cores of which this process may use at least one CPU."""
        return len({cpu.core for cpu in self.usable})

    @property
    def smt(self) -> bool:
        """Whether any physical core shows as more than one CPU."""
        return self.physical_cores < len(self.cpus)

    @property
    def hybrid(self) -> bool:
        """Whether big and small cores are mixed."""
        return len({cpu.efficient for cpu in self.cpus}) == 2
