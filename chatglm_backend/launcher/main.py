"""The launcher's steps in order: options, platform, plan, environment, start."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from chatglm_backend.errors import ChatGLMError
from chatglm_backend.hardware import ThreadPlan, find_libraries, plan_threads, read_machine
from chatglm_backend.launcher.command import (
    bind_this_process,
    numactl_prefix,
    page_environment,
    printed_environment,
    start_page,
    usable_numactl,
)
from chatglm_backend.launcher.environment import PythonEnvironment
from chatglm_backend.launcher.options import HELP, LaunchOptions, parse_options
from chatglm_backend.launcher.platform_check import check_this_platform
from chatglm_backend.sentences import Sentence


def main(argv: Sequence[str], root: Path) -> int:
    """Run the launcher for the project in ``root``; returns the exit code (2: wrong flags, 1: no start)."""
    try:
        return _run(argv, root)
    except ChatGLMError as error:
        _say(error)
        return 2 if error.code == "config" else 1
    except KeyboardInterrupt:
        _say(Sentence("launch.stopped"))
        return 130


def _run(argv: Sequence[str], root: Path) -> int:
    options = parse_options(argv)
    if options.action == "help":
        windows = os.name == "nt"
        python = r".venv\Scripts\python" if windows else ".venv/bin/python"
        sys.stdout.write(HELP.format(script=r".\launch.ps1" if windows else "./launch.sh", python=python))
        return 0
    check_this_platform()
    environment = _environment(options, root)
    if options.action == "setup-only":
        environment.prepare(own_use=options.dev)  # others may start the page later, but nobody else tests
        _say(Sentence("launch.ready", path=environment.path))
        return 0
    if options.action == "start":
        environment.prepare(own_use=True)
    return _plan_and_start(options, environment, root)


def _environment(options: LaunchOptions, root: Path) -> PythonEnvironment:
    files = [root / "requirements.txt"]
    if options.dev:
        files.append(root / "requirements-dev.txt")
    if options.cluster:
        files.append(root / "requirements-cluster.txt")
    path = Path(os.environ.get("CHATGLM_VENV") or root / ".venv").expanduser().absolute()
    return PythonEnvironment(path, tuple(files), dict(os.environ), _say)


def _plan_and_start(options: LaunchOptions, environment: PythonEnvironment, root: Path) -> int:
    machine = read_machine()
    libraries = find_libraries(environment.site_packages, environment.path)
    plan = plan_threads(machine, options.wishes, os.environ, libraries)
    added = page_environment(plan, threads_asked=options.wishes.threads is not None)
    prefix = numactl_prefix(plan, machine)
    if options.action == "print-env":
        sys.stdout.write(printed_environment(added, options.shell, prefix))
        return 0
    numactl, why_not = usable_numactl(prefix) if prefix else (None, None)
    command = [str(environment.python), str(root / "webui.py"), *options.page_args]
    if options.join:
        command[1:] = ["-m", "chatglm_backend.cluster.start", options.join]
        added["PYTHONPATH"] = str(root)
    if numactl is not None:
        command = [numactl, *prefix, *command]
    if options.action == "dry-run":
        sys.stdout.write(_dry_run(environment, plan, added, command, why_not))
        return 0
    _say(Sentence("launch.plan", reasons=(*plan.reasons, why_not) if why_not else plan.reasons))
    if plan.bind and numactl is None and not bind_this_process(plan.cpus):
        _say(Sentence("launch.not_held"))
    return start_page(command, {**os.environ, **added})


def _dry_run(
    environment: PythonEnvironment,
    plan: ThreadPlan,
    added: dict[str, str],
    command: Sequence[str],
    why_not: Sentence | None,
) -> str:
    lines = [f"environment: {environment.path} {Sentence(f'environment.{environment.state()}')}"]
    lines += [f"plan: {reason}" for reason in plan.reasons]
    if why_not:
        lines.append(f"plan: {why_not}")
    if plan.bind and why_not:
        lines.append(f"plan: {Sentence('launch.held_without', cpus=plan.cpulist)}")
    lines += [f"set: {name}={value}" for name, value in sorted(added.items())]
    lines.append(f"start: {shlex.join(command)}")
    return "".join(f"{line}\n" for line in lines)


def _say(text: object) -> None:
    sys.stderr.write(f"launch: {text}\n")
    sys.stderr.flush()
