"""Reading Windows machines from buffers built to the documented layout."""

from __future__ import annotations

import sys

import pytest
from hardware_trees import cache_record, core_record, node_record, package_record

from chatglm_backend.hardware import Machine, plan_threads, read_machine
from chatglm_backend.hardware.report import _SHOWN_FLAGS
from chatglm_backend.hardware.windows import linux_names, parse_processor_table, windows_machine
from chatglm_backend.int4.libraries import shipped_variants
from chatglm_backend.sentences import Sentence

HYBRID = (
    core_record(0b11, efficiency=1) + cache_record() + core_record(0b1100, efficiency=1)
    + core_record(0b10000) + core_record(0b100000) + package_record(0b111111) + node_record(0, 0b111111)
)  # fmt: skip


def machine_of(table: bytes, affinity: tuple[int, ...] | None = None) -> Machine:
    """Return a machine with this table and 16 GB."""
    return windows_machine(table, affinity, frozenset({"avx2"}), (16_000_000_000, 9_000_000_000))


def test_hybrid_table() -> None:
    """Cores, their threads and the small ones are told apart; unknown records are stepped over."""
    cpus = parse_processor_table(HYBRID)
    assert [(cpu.number, cpu.core) for cpu in cpus] == [(0, 0), (1, 0), (2, 2), (3, 2), (4, 4), (5, 5)]
    assert [cpu.number for cpu in cpus if cpu.efficient] == [4, 5]


def test_two_sockets_in_two_groups() -> None:
    """CPUs of the second group of 64 get numbers from 64 on, and each socket its own number."""
    cores = b"".join(core_record(mask, group=group) for group in (0, 1) for mask in (0b1, 0b10))
    packages, nodes = package_record(0b11) + package_record(0, 0b11), node_record(0, 0b11) + node_record(1, 0b11, 1)
    machine = machine_of(cores + packages + nodes)
    assert [cpu.number for cpu in machine.cpus] == [0, 1, 64, 65]
    assert machine.sockets == (0, 1)
    assert [node.cpus for node in machine.nodes] == [(0, 1), (64, 65)]
    assert Sentence("machine.many_cpus") in machine.notes


def test_a_truncated_table_keeps_whole_records() -> None:
    """A cut buffer gives the cores before the cut and does not raise."""
    assert len(parse_processor_table(HYBRID[:60])) == 2
    assert parse_processor_table(b"") == ()
    assert parse_processor_table(b"\x00" * 64) == ()


def test_affinity_and_the_plan() -> None:
    """Windows uses all allowed cores, big ones first, and quiets Intel's spinning threads."""
    machine = machine_of(HYBRID, affinity=(2, 3, 4, 5))
    plan = plan_threads(machine)
    assert plan.profile == "client"
    assert plan.cpus == (2, 4, 5)
    assert plan.env["KMP_BLOCKTIME"] == "1"
    assert plan.env["OMP_NUM_THREADS"] == "3"


def test_no_table_still_gives_a_machine() -> None:
    """Where the system's call fails, each CPU counts as a core, and a note says so."""
    machine = machine_of(b"")
    assert machine.cpus
    assert Sentence("machine.no_table") in machine.notes


def test_features_need_the_systems_consent() -> None:
    """Features have Linux's names, and count only where they are switched on."""
    found = linux_names({"avx2": True, "avx512vnni": True, "amx-int8": True, "avx512f": False})
    assert found == {"avx2", "avx512_vnni", "amx_int8"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="compares with /proc/cpuinfo")
def test_llvm_agrees_with_the_kernel() -> None:
    """All that bigdl-llm's libraries and the report ask for is told as /proc/cpuinfo tells it."""
    llvm = pytest.importorskip("llvmlite.binding")
    asked = set(_SHOWN_FLAGS).union(*(variant.needs for variant in shipped_variants("linux")))
    assert asked & linux_names(llvm.get_host_cpu_features()) == asked & read_machine().flags
