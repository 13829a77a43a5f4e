"""Reading Linux machines from recorded trees."""

from __future__ import annotations

from pathlib import Path

import pytest
from hardware_trees import plant

from chatglm_backend.hardware.cpulist import format_cpulist, parse_cpulist
from chatglm_backend.hardware.linux import read_linux
from chatglm_backend.sentences import Sentence


@pytest.mark.parametrize(
    ("name", "sockets", "cores", "cpus", "smt"),
    [
        ("vm-2cores-cgroup-v1", 1, 2, 2, False),
        ("1-socket-4-cores-smt", 1, 4, 8, True),
        ("2-sockets-8-cores-smt", 2, 8, 16, True),
        ("2-sockets-8-cores-no-smt", 2, 8, 8, False),
        ("hybrid-2p-4e", 1, 6, 8, True),
    ],
)
def test_counts(tmp_path: Path, name: str, sockets: int, cores: int, cpus: int, smt: bool) -> None:
    """Sockets, physical cores, CPUs and SMT are counted right, also where core ids repeat over sockets."""
    machine = read_linux(plant(name, tmp_path))
    found = (len(machine.sockets), machine.physical_cores, len(machine.cpus), machine.smt)
    assert found == (sockets, cores, cpus, smt)


@pytest.mark.parametrize(
    ("name", "small"),
    [("hybrid-2p-4e", [4, 5, 6, 7]), ("hybrid-by-capacity", [4, 5, 6, 7]), ("vm-2cores-cgroup-v1", [])],
)
def test_small_cores_of_hybrid_cpus(tmp_path: Path, name: str, small: list[int]) -> None:
    """Efficiency cores are known by the kernel's lists or by their capacity, unless it is the same for all."""
    machine = read_linux(plant(name, tmp_path))
    assert machine.hybrid == bool(small)
    assert [cpu.number for cpu in machine.cpus if cpu.efficient] == small


def test_numa_nodes_without_cpus_do_not_count(tmp_path: Path) -> None:
    """A memory-only node is not one a plan can use."""
    machine = read_linux(plant("2-sockets-8-cores-no-smt", tmp_path))
    assert [node.number for node in machine.nodes] == [0, 1]
    assert [node.cpus for node in machine.nodes] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert machine.nodes[0].memory == 128_000_000 * 1024


def test_affinity_narrows(tmp_path: Path) -> None:
    """What taskset allows is what counts; a mask without online CPUs is named and not obeyed."""
    root = plant("1-socket-4-cores-smt", tmp_path)
    machine = read_linux(root, affinity={0, 4, 5, 99})
    assert (machine.allowed, machine.usable_cores) == ((0, 4, 5), 2)
    machine = read_linux(root, affinity={99})
    assert len(machine.allowed) == 8
    assert Sentence("machine.no_online", name="affinity mask") in machine.notes


@pytest.mark.parametrize(
    ("name", "quota", "total", "available", "allowed"),
    [
        ("1-socket-4-cores-smt", None, 16_384_000_000, 12_288_000_000, 8),
        ("cgroup-v2-quota-and-memory", 2.5, 8_000_000_000, 6_000_000_000, 8),
        ("cgroup-v2-parent-limits", 0.5, 4_000_000_000, 3_000_000_000, 8),
        ("cgroup-v1-docker", 1.5, 6_000_000_000, 5_000_000_000, 2),
    ],
)
def test_cgroup_limits(
    tmp_path: Path, name: str, quota: float | None, total: int, available: int, allowed: int
) -> None:
    """Quota, memory and CPU set hold for both cgroup versions, nested groups and namespaces."""
    machine = read_linux(plant(name, tmp_path))
    assert quota == machine.quota_cpus
    assert (total, available) == (machine.memory_total, machine.memory_available)
    assert allowed == len(machine.allowed)


def test_unlimited_v1_memory_is_no_limit(tmp_path: Path) -> None:
    """The huge number that cgroup v1 writes for 'no limit' is not taken for one."""
    machine = read_linux(plant("vm-2cores-cgroup-v1", tmp_path))
    assert machine.memory_limit is None
    assert machine.quota_cpus is None


def test_an_empty_tree_still_gives_a_machine(tmp_path: Path) -> None:
    """Without /proc and /sys there is at least one CPU, and the notes say what is missing."""
    machine = read_linux(tmp_path)
    assert machine.cpus
    assert machine.memory_total == 0
    assert len(machine.notes) >= 2


def test_cpuinfo_stands_in_for_sys(tmp_path: Path) -> None:
    """Without /sys, /proc/cpuinfo tells which CPUs share a core."""
    root = plant("1-socket-4-cores-smt", tmp_path)
    for path in (root / "sys").rglob("*"):
        if path.is_file():
            path.unlink()
    machine = read_linux(root)
    assert (machine.physical_cores, len(machine.cpus)) == (4, 8)


def test_garbage_everywhere_never_raises(tmp_path: Path) -> None:
    """Files with nonsense in them are as good as none."""
    root = plant("cgroup-v2-quota-and-memory", tmp_path)
    for path in root.rglob("*"):
        if path.is_file():
            path.write_bytes(b"\xff\xfe -1--7,x\n: : :\n0::/../..\n")
    assert read_linux(root).cpus


def test_flags_and_name(tmp_path: Path) -> None:
    """CPU features and the model's name come from /proc/cpuinfo."""
    machine = read_linux(plant("2-sockets-8-cores-smt", tmp_path))
    assert "avx512_vnni" in machine.flags
    assert machine.model_name.startswith("Intel(R) Xeon(R)")


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0-3,8", (0, 1, 2, 3, 8)), ("", ()), ("5", (5,)), ("3-1,x,2", (2,)), ("0-99999999999", ())],
)
def test_cpulists_are_read(text: str, numbers: tuple[int, ...]) -> None:
    """Kernel lists are read; parts that make no sense are skipped."""
    assert numbers == parse_cpulist(text)


def test_cpulists_are_written() -> None:
    """Runs are shortened, and reading them back gives the same."""
    assert format_cpulist([11, 8, 0, 1, 2, 3, 10, 3]) == "0-3,8,10-11"
    assert parse_cpulist("0-3,8,10-11") == (0, 1, 2, 3, 8, 10, 11)
