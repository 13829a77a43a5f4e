"""The thread plan on recorded machines, the user's own wishes, and what the report advises."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hardware_trees import plant

from chatglm_backend.errors import ConfigError
from chatglm_backend.hardware import PLANNED_THREADS, Machine, Wishes, plan_threads, report
from chatglm_backend.hardware.linux import read_linux
from chatglm_backend.hardware.report import hints
from chatglm_backend.sentences import Sentence

BOTH = {"OMP_NUM_THREADS", "NUMBA_NUM_THREADS"}
LIBRARIES = {
    "tcmalloc": Path("/env/libtcmalloc.so"),
    "jemalloc": Path("/env/libjemalloc.so"),
    "libiomp5": Path("/env/lib/libiomp5.so"),
}


def machine(tmp_path: Path, name: str, affinity: set[int] | None = None) -> Machine:
    """Return a recorded machine."""
    return read_linux(plant(name, tmp_path), affinity)


@pytest.mark.parametrize(
    ("name", "profile", "cpus", "nodes"),
    [
        ("vm-2cores-cgroup-v1", "server", (0, 1), ()),
        ("1-socket-4-cores-smt", "client", (0, 1, 2, 3), ()),
        ("2-sockets-8-cores-smt", "server", (0, 1, 2, 3), (0,)),
        ("2-sockets-8-cores-no-smt", "server", (0, 1, 2, 3), (0,)),
        ("1-socket-2-nodes", "server", tuple(range(8)), (0, 1)),
        ("hybrid-2p-4e", "client", (0, 2, 4, 5, 6, 7), ()),
    ],
)
def test_defaults(tmp_path: Path, name: str, profile: str, cpus: tuple[int, ...], nodes: tuple[int, ...]) -> None:
    """Each machine gets its profile, one thread per physical core, and its memory nodes."""
    plan = plan_threads(machine(tmp_path, name))
    assert (profile, cpus, nodes) == (plan.profile, plan.cpus, plan.numa_nodes)
    assert len(cpus) == plan.threads == int(plan.env["OMP_NUM_THREADS"])


def test_the_socket_with_more_allowed_cores_wins(tmp_path: Path) -> None:
    """Under taskset, the server profile takes the socket that has more of the allowed cores."""
    plan = plan_threads(machine(tmp_path, "2-sockets-8-cores-smt", {3, 4, 5, 13, 14}))
    assert plan.cpus == (4, 5, 14)
    assert plan.numa_nodes == (1,)


@pytest.mark.parametrize(
    ("name", "wishes", "expected"),
    [
        ("2-sockets-8-cores-smt", Wishes(profile="client"), {"threads": 8, "bind": False}),
        ("2-sockets-8-cores-smt", Wishes(threads=8), {"threads": 8, "bind": False, "numa_nodes": ()}),
        ("hybrid-2p-4e", Wishes(threads=2), {"cpus": (0, 2), "bind": True}),
    ],
    ids=["all allowed cores, bound to none", "more than one socket's cores", "the two performance cores"],
)
def test_wishes(tmp_path: Path, name: str, wishes: Wishes, expected: dict[str, object]) -> None:
    """A profile or a number of threads decides which cores are used and held."""
    plan = plan_threads(machine(tmp_path, name), wishes)
    assert {field: getattr(plan, field) for field in expected} == expected
    assert (Sentence("plan.few_cores", cores=4) in plan.reasons) == (wishes.threads == 8)


@pytest.mark.parametrize(
    ("wishes", "environ", "threads", "set_"),
    [
        (Wishes(), {"OMP_NUM_THREADS": "3,2"}, 3, {"NUMBA_NUM_THREADS"}),
        (Wishes(threads=2), {"OMP_NUM_THREADS": "4", "NUMBA_NUM_THREADS": "4"}, 2, BOTH),
        (Wishes(), {"OMP_NUM_THREADS": "many"}, 4, BOTH),
    ],
    ids=["kept and followed", "a flag is more explicit", "unusable is as good as unset"],
)
def test_the_users_own_number(
    tmp_path: Path, wishes: Wishes, environ: dict[str, str], threads: int, set_: set[str]
) -> None:
    """OMP_NUM_THREADS is read, never rewritten, unless a flag or nonsense makes it void."""
    name = "cgroup-v2-quota-and-memory" if threads == 3 else "1-socket-4-cores-smt"  # more than the quota is kept too
    plan = plan_threads(machine(tmp_path, name), wishes, environ)
    assert plan.threads == threads
    assert {name: plan.env[name] for name in BOTH & plan.env.keys()} == dict.fromkeys(set_, str(threads))


@pytest.mark.parametrize(
    ("name", "threads"),
    [("cgroup-v2-quota-and-memory", 2), ("cgroup-v2-parent-limits", 1), ("cgroup-v1-docker", 1)],
)
def test_quota_is_rounded_down_to_at_least_one(tmp_path: Path, name: str, threads: int) -> None:
    """2.5 CPUs make two threads, half a CPU makes one."""
    plan = plan_threads(machine(tmp_path, name))
    assert threads == plan.threads
    assert "plan.threads_quota" in {reason.code for reason in plan.reasons}


@pytest.mark.parametrize("threads", [0, -1, 4096])
def test_impossible_numbers_are_refused(threads: int) -> None:
    """Zero, negative and absurd counts are errors."""
    with pytest.raises(ConfigError, match="threads"):
        Wishes(threads=threads)


def test_nothing_is_preloaded_unasked(tmp_path: Path) -> None:
    """By default there is no preload and no variable of a library that is not loaded."""
    plan = plan_threads(machine(tmp_path, "2-sockets-8-cores-smt"), libraries=LIBRARIES)
    assert {"NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"} == set(plan.env)


def test_preload_keeps_the_users_own(tmp_path: Path) -> None:
    """What the user preloads stays, behind ours; variables the user set are not touched."""
    plan = plan_threads(
        machine(tmp_path, "1-socket-4-cores-smt"),
        Wishes(allocator="jemalloc", intel_openmp=True),
        {"LD_PRELOAD": "/own.so", "KMP_BLOCKTIME": "0"},
        LIBRARIES,
    )
    assert plan.env["LD_PRELOAD"] == "/env/libjemalloc.so:/env/lib/libiomp5.so:/own.so"
    assert plan.env["KMP_AFFINITY"] == "granularity=fine,none"
    assert "KMP_BLOCKTIME" not in plan.env
    assert "MALLOC_CONF" in plan.env


@pytest.mark.parametrize(
    ("libraries", "environ", "reason"),
    [
        ({}, {}, "plan.preload_missing"),
        ({"tcmalloc": Path("/my env/libtcmalloc.so")}, {}, "plan.preload_path"),
        (LIBRARIES, {"LD_PRELOAD": "/usr/lib/libtcmalloc.so"}, "plan.preload_already"),
    ],
)
def test_preloads_that_cannot_be(
    tmp_path: Path, libraries: dict[str, Path], environ: dict[str, str], reason: str
) -> None:
    """A missing library, a path LD_PRELOAD cannot hold and a double one are named and left out."""
    plan = plan_threads(machine(tmp_path, "1-socket-4-cores-smt"), Wishes(allocator="tcmalloc"), environ, libraries)
    assert "LD_PRELOAD" not in plan.env
    assert reason in {one.code for one in plan.reasons}


def test_hints_name_the_fix(tmp_path: Path) -> None:
    """A wrong thread count, a quota, a narrow mask and little memory each get a sentence."""
    odd = dataclasses.replace(
        machine(tmp_path, "cgroup-v2-quota-and-memory", {0, 1, 2, 4, 5, 6}),
        memory_available=3_000_000_000,
        architecture="x86_64",
    )
    found = hints(odd, {"OMP_NUM_THREADS": "64"})
    assert set(found) == {
        Sentence("hint.omp_threads", own=64, best=2),
        Sentence("hint.memory", free="3.00 GB"),
        Sentence("hint.quota", quota=2.5, cores=3),
        Sentence("hint.allowed", allowed=6, cpus=8),
    }


@pytest.mark.parametrize(
    ("flags", "codes"), [({"sse2"}, ["hint.no_avx"]), ({"avx"}, ["hint.no_avx2"]), ({"avx", "avx2"}, [])]
)
def test_hints_on_cpu_features(tmp_path: Path, flags: set[str], codes: list[str]) -> None:
    """CPUs without AVX or AVX2 are told so."""
    old = dataclasses.replace(machine(tmp_path, "1-socket-4-cores-smt"), flags=frozenset(flags), architecture="x86_64")
    assert codes == [hint.code for hint in hints(old, {})]


def test_the_launchers_number_is_not_the_users(tmp_path: Path) -> None:
    """What the launcher set is neither called the user's own nor complained about."""
    environ = {"OMP_NUM_THREADS": "2", PLANNED_THREADS: "2"}
    here = dataclasses.replace(machine(tmp_path, "1-socket-4-cores-smt"), architecture="x86_64")
    assert "plan.threads_planned" in {reason.code for reason in plan_threads(here, environ=environ).reasons}
    assert hints(here, environ) == ()


def test_the_report_of_this_machine_is_plain_data() -> None:
    """The live report has a plan within the allowed CPUs and turns into JSON values."""
    found = report({})
    assert found.plan.threads <= len(found.machine.allowed)
    assert found.plan.threads == found.to_json()["plan"]["threads"]  # type: ignore[index]
