"""The files for systemd and for containers: what they start exists, as an ordinary user, and ends in time."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from chatglm_backend.settings import load_settings, spec

UNIT = "deploy/chatglm.service"
DOCKERFILE = "deploy/Dockerfile"


def unit_values(root: Path) -> dict[str, list[str]]:
    """All values of the unit's ``[Service]`` by name."""
    section = (root / UNIT).read_text(encoding="utf-8").partition("[Service]")[2].partition("[Install]")[0]
    found: dict[str, list[str]] = {}
    for line in section.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def steps(root: Path) -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, long ones on one line."""
    text = re.sub(r"^\s*#.*\n", "", (root / DOCKERFILE).read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def step(root: Path, name: str) -> str:
    """The last instruction of that name."""
    return [rest for word, rest in steps(root) if word == name][-1]


def page_flags(arguments: list[str]) -> dict[str, str]:
    """Flags for the page as settings, the launcher's own left out."""
    found: dict[str, str] = {}
    left = list(arguments)
    while left:
        flag = left.pop(0)
        if flag == "--profile":
            left.pop(0)
        elif spec(flag[2:].replace("-", "_")).kind == "bool":
            found[flag[2:].replace("-", "_")] = "true"
        else:
            found[flag[2:].replace("-", "_")] = left.pop(0)
    return found


def test_the_unit_shares_with_a_token_and_gives_answers_time_to_end(project_root: Path) -> None:
    """Its flags are ours, and the system waits longer than we drain."""
    values = unit_values(project_root)
    command, *arguments = values["ExecStart"][0].split()
    assert (project_root / Path(command).name).is_file()
    settings = load_settings(page_flags(arguments), {}, file=Path("nowhere"))
    assert (settings.listen, settings.insecure_listen, settings.log_format) == (True, False, "json")
    assert int(values["TimeoutStopSec"][0]) > settings.drain_seconds + 5
    assert values["RestartPreventExitStatus"] == ["2"]


def test_the_unit_gives_the_server_little_power(project_root: Path) -> None:
    """An own user, a read-only system, and memory with a limit."""
    values = unit_values(project_root)
    assert {name: values[name] for name in ("DynamicUser", "NoNewPrivileges", "ProtectHome", "ProtectSystem")} == {
        "DynamicUser": ["yes"], "NoNewPrivileges": ["yes"], "ProtectHome": ["yes"], "ProtectSystem": ["strict"],
    }  # fmt: skip
    assert values["CapabilityBoundingSet"] == [""]
    assert values["MemoryMax"]
    assert "MemoryDenyWriteExecute" not in values  # the kernels are compiled here


def test_systemd_finds_nothing_wrong_with_the_unit(project_root: Path, tmp_path: Path) -> None:
    """With the program where it is here."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    text = (project_root / UNIT).read_text(encoding="utf-8").replace("/opt/chatglm", str(project_root))
    unit = tmp_path / "chatglm.service"
    unit.write_text(text, encoding="utf-8")
    done = subprocess.run([tool, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60)
    assert [line for line in done.stderr.splitlines() if "chatglm" in line] == []


def test_the_image_runs_as_an_ordinary_user_and_is_watched(project_root: Path) -> None:
    """Set before the start; alive is what ``/health`` says."""
    names = [word for word, _ in steps(project_root)]
    assert step(project_root, "USER") not in ("root", "0")
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert "/health" in step(project_root, "HEALTHCHECK")
    assert step(project_root, "FROM") == "python:3.11-slim"
    assert json.loads(step(project_root, "VOLUME")) == ["/cache", "/data"]
    started = [*json.loads(step(project_root, "ENTRYPOINT")), *json.loads(step(project_root, "CMD"))]
    settings = load_settings(page_flags(started[1:]), {}, file=Path("nowhere"))
    assert (settings.listen, settings.port, settings.insecure_listen) == (True, 7860, False)


@pytest.mark.skipif(sys.platform == "win32", reason="images are Linux")
def test_the_first_layers_are_enough_to_install_with(project_root: Path, tmp_path: Path) -> None:
    """The launcher runs on what was copied before it."""
    for word, rest in steps(project_root):
        if word == "COPY" and rest != ". .":
            *sources, target = rest.split()
            for source in sources:
                found, place = project_root / source, tmp_path / target
                if found.is_dir():
                    shutil.copytree(found, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(found, place)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHATGLM_")}
    done = subprocess.run(
        [str(tmp_path / "launch.sh"), "--dry-run"], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, env={**environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".venv").exists()  # it only looked


def test_what_the_image_needs_is_not_ignored(project_root: Path) -> None:
    """Everything else is."""
    lines = (project_root / f"{DOCKERFILE}.dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert {"requirements.txt", "launch.sh", "webui.py", "chatglm_backend"} <= kept
    assert all((project_root / name).exists() for name in kept)
    assert lines[1] == "*"
