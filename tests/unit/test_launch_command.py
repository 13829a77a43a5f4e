"""From the plan to the command: numactl's arguments, variables, and printing them for a shell."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hardware_trees import plant

from chatglm_backend.hardware import PLANNED_THREADS, Wishes, plan_threads
from chatglm_backend.hardware.linux import read_linux
from chatglm_backend.launcher.command import (
    bind_this_process,
    numactl_prefix,
    page_environment,
    printed_environment,
    usable_numactl,
)

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="numactl and affinity masks of Linux")


@pytest.mark.parametrize(
    ("name", "wishes", "expected"),
    [
        ("2-sockets-8-cores-smt", Wishes(), ("--physcpubind=0-3", "--membind=0")),
        ("1-socket-2-nodes", Wishes(), ("--physcpubind=0-7", "--interleave=0,1")),
        ("1-socket-2-nodes", Wishes(threads=4), ("--physcpubind=0-3", "--membind=0")),
        ("2-sockets-8-cores-smt", Wishes(profile="client"), ()),
        ("1-socket-4-cores-smt", Wishes(profile="server"), ()),
    ],
)
def test_numactl_only_where_memory_has_a_place(
    tmp_path: Path, name: str, wishes: Wishes, expected: tuple[str, ...]
) -> None:
    """The server profile binds cores and memory where there are several nodes, and only there."""
    machine = read_linux(plant(name, tmp_path))
    assert numactl_prefix(plan_threads(machine, wishes), machine) == expected


def test_a_small_node_is_preferred_not_enforced(tmp_path: Path) -> None:
    """A node that may be too small for the model leaves a way out."""
    machine = read_linux(plant("2-sockets-8-cores-smt", tmp_path))
    small = dataclasses.replace(machine, nodes=tuple(dataclasses.replace(n, memory=4 * 10**9) for n in machine.nodes))
    assert "--preferred=0" in numactl_prefix(plan_threads(small), small)


@linux_only
@pytest.mark.parametrize(
    ("body", "code"),
    [(None, "numactl.missing"), ("exit 1", "numactl.not_permitted"), ('shift 2; exec "$@"', None)],
)
def test_numactl_is_tried_before_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str | None, code: str | None
) -> None:
    """A numactl that is absent or forbidden is left out, with the reason; a working one is used."""
    if body is not None:
        stub = tmp_path / "numactl"
        stub.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path, why_not = usable_numactl(("--physcpubind=0", "--membind=0"))
    assert (path is not None) == (why_not is None)
    assert code == (why_not and why_not.code)


def test_the_page_learns_who_chose(tmp_path: Path) -> None:
    """A planned number is marked as planned; a flag also becomes the page's setting."""
    plan = plan_threads(read_linux(plant("1-socket-4-cores-smt", tmp_path)), Wishes(threads=2))
    env = page_environment(plan, threads_asked=True)
    assert (env["OMP_NUM_THREADS"], env[PLANNED_THREADS], env["CHATGLM_THREADS"]) == ("2", "2", "2")
    own = plan_threads(read_linux(tmp_path), environ={"OMP_NUM_THREADS": "2"})
    assert not {PLANNED_THREADS, "CHATGLM_THREADS"} & set(page_environment(own, threads_asked=False))


@linux_only
def test_printed_variables_survive_a_shell() -> None:
    """Quotes, spaces and Chinese come through ``eval`` unchanged."""
    value = "it's 张三; $HOME `id`"
    script = printed_environment({"WORD": value}, "sh", ("--membind=0",)) + 'printf %s "$WORD"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout == value


def test_printed_variables_for_powershell() -> None:
    """PowerShell's single quotes are doubled."""
    assert printed_environment({"A": "it's"}, "powershell") == "$env:A = 'it''s'\n"


@linux_only
def test_binding_holds_the_process() -> None:
    """A child process bound to one CPU sees only that one; an impossible CPU is refused quietly."""
    first = min(os.sched_getaffinity(0))
    code = (
        "import os; from chatglm_backend.launcher.command import bind_this_process as b;"
        f"print(b([{first}]), sorted(os.sched_getaffinity(0)), b([9999]))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == f"True [{first}] False"
    assert not bind_this_process([])
