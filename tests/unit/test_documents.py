"""What the documents tell people to type and open exists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from chatglm_backend.cli.app import build_app
from chatglm_backend.launcher.options import HELP
from tools.interfaces import documents

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (
    "README.md", "CONTRIBUTING.md", "docs/models.md", "docs/threads.md", "docs/architecture.md", "docs/api.md",
    "docs/operations.md", "docs/reliability.md", "docs/guide.md", "docs/finetunes.md", "docs/performance-log.md",
    "docs/settings.md",
    *(f"docs/log/{file.name}" for file in sorted((ROOT / "docs" / "log").glob("*.md"))),
    "tools/demo_model/README.md", "tools/demo_model/data/README.md",
)  # fmt: skip


def commands() -> Iterator[tuple[str, str, str]]:
    """Each document, command and the rest of the line, for every terminal command that is named."""
    for document in DOCUMENTS:
        for line in (ROOT / document).read_text(encoding="utf-8").splitlines():
            for name, rest in re.findall(r"python(?:\.exe)? -m chatglm_backend ([a-z]+)([^`|]*)", line):
                yield document, name, rest


def options_of(name: str) -> set[str]:
    """The flags of a command, or of all commands of a group."""
    command = typer.main.get_command(build_app()).commands[name]  # type: ignore[attr-defined]
    parts = [command, *getattr(command, "commands", {}).values()]
    return {flag for part in parts for parameter in part.params for flag in parameter.opts}


def test_there_are_commands_to_check() -> None:
    """The search finds the documents' commands at all."""
    assert {name for _, name, _ in commands()} >= {"generate", "download", "doctor", "benchmark", "cache", "verify"}


@pytest.mark.parametrize(("document", "name", "rest"), sorted(set(commands())))
def test_every_command_and_flag_exists(document: str, name: str, rest: str) -> None:
    """A command in a document is one of ours, with its flags and, for cache, its second word."""
    known = options_of(name)
    assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known | {"--help"}, f"{document}: {name}{rest}"
    if name == "cache":
        assert rest.split()[0] in ("list", "delete")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_linked_is_there(document: str) -> None:
    """Relative links and pictures lead somewhere."""
    path = ROOT / document
    for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
        assert target.startswith(("http:", "https:")) or (path.parent / target).exists(), target


def test_signatures_and_settings_are_those_of_the_code() -> None:
    """Written by a command; run ``python -m tools.interfaces`` after a change of either."""
    stale = [str(path.relative_to(ROOT)) for path, text in documents().items() if text != path.read_text("utf-8")]
    assert stale == []


def test_every_test_that_is_named_is_there() -> None:
    """The quirks of the models are pinned by tests that exist under those names."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/models.md").read_text(encoding="utf-8"))
    assert len(named) > 10
    missing = [test for file, test in named if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")]
    assert missing == []


def test_the_launchers_flags_are_its_own() -> None:
    """What is said of the launcher's flags is in its help."""
    operations = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = operations.split("## Servers and clients", 1)[1].split("\n## ", 1)[0]
    flags = set(re.findall(r"--[a-z-]+", section))
    assert flags
    assert flags <= set(re.findall(r"--[a-z-]+", HELP))


def test_every_test_and_benchmark_that_reliability_rests_on_is_there() -> None:
    """By the file's name, wherever it lies."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"test_[a-z0-9_]+\.py", text))
    assert len(named) > 5
    assert named <= files
    for module in re.findall(r"python -m (benchmarks\.[a-z_.]+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module
