"""Puts the machine, the plan and what to fix side by side, for ``doctor`` and the page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from chatglm_backend.hardware.detect import read_machine
from chatglm_backend.hardware.libraries import find_libraries
from chatglm_backend.hardware.machine import Machine
from chatglm_backend.hardware.plan import PLANNED_THREADS, ThreadPlan, Wishes, plan_threads, user_threads
from chatglm_backend.sentences import Sentence
from chatglm_backend.units import size

_MEMORY_NEEDED = 6_000_000_000
_MACHINES = ("x86_64", "amd64")
_SHOWN_FLAGS = ("avx", "avx2", "f16c", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


@dataclass(frozen=True, slots=True)
class HardwareReport:
    """One machine, its plan, and one sentence for each thing worth fixing."""

    machine: Machine
    plan: ThreadPlan
    hints: tuple[Sentence, ...]

    def to_json(self) -> dict[str, object]:
        """Return the report as plain values; memory in bytes, CPUs as numbers."""
        machine, plan = self.machine, self.plan
        return {
            "system": machine.system,
            "architecture": machine.architecture,
            "cpu": machine.model_name,
            "sockets": len(machine.sockets),
            "physical_cores": machine.physical_cores,
            "logical_cpus": len(machine.cpus),
            "allowed_cpus": list(machine.allowed),
            "smt": machine.smt,
            "hybrid": machine.hybrid,
            "efficiency_cores": len({cpu.core for cpu in machine.cpus if cpu.efficient}),
            "quota_cpus": machine.quota_cpus,
            "numa_nodes": [asdict(node) for node in machine.nodes],
            "features": [flag for flag in _SHOWN_FLAGS if flag in machine.flags],
            "memory_total": machine.memory_total,
            "memory_available": machine.memory_available,
            "memory_limit": machine.memory_limit,
            "notes": list(machine.notes),
            "plan": {
                "threads": plan.threads,
                "profile": plan.profile,
                "cpus": list(plan.cpus),
                "numa_nodes": list(plan.numa_nodes),
                "reasons": list(plan.reasons),
                "env": dict(plan.env),
            },
            "hints": list(self.hints),
        }


def report(environ: Mapping[str, str] | None = None, wishes: Wishes | None = None) -> HardwareReport:
    """Read this machine and say how it would be used. Never raises on odd machines."""
    environ = os.environ if environ is None else environ
    machine = read_machine()
    plan = plan_threads(machine, wishes, environ, find_libraries())
    return HardwareReport(machine, plan, hints(machine, environ))


def hints(machine: Machine, environ: Mapping[str, str]) -> tuple[Sentence, ...]:
    """Return one sentence, with its fix, for each thing that makes the model slow or impossible here."""
    found: list[Sentence] = []
    own, best = user_threads(environ), plan_threads(machine).threads
    if environ.get("OMP_NUM_THREADS") and own is None:
        found.append(Sentence("hint.omp_not_number"))
    elif own is not None and own != best and environ.get(PLANNED_THREADS) != str(own):
        found.append(Sentence("hint.omp_threads", own=own, best=best))
    if machine.architecture.lower() not in _MACHINES:
        found.append(Sentence("hint.architecture", architecture=machine.architecture))
    elif machine.flags and "avx" not in machine.flags:
        found.append(Sentence("hint.no_avx"))
    elif machine.flags and "avx2" not in machine.flags:
        found.append(Sentence("hint.no_avx2"))
    if 0 < machine.memory_available < _MEMORY_NEEDED:
        found.append(Sentence("hint.memory", free=size(machine.memory_available)))
    if machine.quota_cpus is not None and machine.quota_cpus < machine.usable_cores:
        found.append(Sentence("hint.quota", quota=machine.quota_cpus, cores=machine.usable_cores))
    if len(machine.allowed) < len(machine.cpus):
        found.append(Sentence("hint.allowed", allowed=len(machine.allowed), cpus=len(machine.cpus)))
    return tuple(found)
