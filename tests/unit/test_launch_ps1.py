"""launch.ps1 where no PowerShell is at hand: its grammar, its bytes, and what it shares with launch.sh."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
POWERSHELL = (ROOT / "launch.ps1").read_bytes()
SHELL = (ROOT / "launch.sh").read_text(encoding="utf-8")


def test_it_is_plain_ascii_and_nothing_is_newer_than_powershell_5() -> None:
    """PowerShell 5.1 misreads UTF-8 without a mark, so there is none, and it lacks some operators and variables."""
    assert POWERSHELL.isascii()
    assert b"\t" not in POWERSHELL
    assert POWERSHELL.replace(b"\r\n", b"\n").count(b"\r") == 0  # line ends may be of either kind
    for newer in (b"??", b"?.", b"&&", b"||", b"$IsWindows", b"ForEach-Object -Parallel"):
        assert newer not in POWERSHELL


def test_git_gives_it_windows_line_ends() -> None:
    """The attributes fix the line ends of both scripts."""
    lines = (ROOT / ".gitattributes").read_text(encoding="utf-8").splitlines()
    rules = {line.split()[0]: line.split()[1:] for line in lines if line.strip() and not line.startswith("#")}
    assert "eol=crlf" in rules["*.ps1"]
    assert "eol=lf" in rules["*.sh"]


def test_it_parses() -> None:
    """A PowerShell grammar finds no error in it."""
    tree_sitter = pytest.importorskip("tree_sitter")
    grammar = pytest.importorskip("tree_sitter_powershell")
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    root = parser.parse(POWERSHELL.replace(b"\r\n", b"\n")).root_node
    assert not root.has_error
    assert root.child_count > 0
    assert parser.parse(b"if ($x { 'unclosed'").root_node.has_error


def test_powershell_itself_parses_it() -> None:
    """Where PowerShell is installed, its own parser agrees."""
    shell = shutil.which("pwsh") or shutil.which("powershell")
    if shell is None:
        pytest.skip("PowerShell is not installed")
    parse = f"[Management.Automation.Language.Parser]::ParseFile('{ROOT / 'launch.ps1'}', [ref]$null, [ref]$e)"
    script = f"$e = $null; [void]{parse}; exit $e.Count"
    assert subprocess.run([shell, "-NoProfile", "-Command", script], check=False, timeout=60).returncode == 0


def test_both_scripts_hand_over_to_the_same_file() -> None:
    """Neither script knows a flag of its own: all are read in Python, so they cannot differ."""
    text = POWERSHELL.decode("ascii")
    assert r"'chatglm_backend\launcher\start.py'" in text
    assert "chatglm_backend/launcher/start.py" in SHELL
    for script in (text, SHELL):
        code = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#"))
        assert not re.findall(r"--(?:profile|threads|allocator|print-env|dry-run|setup-only)\b", code)


def probe_of(script: str, start: str, end: str) -> str:
    """Return the Python source that a script asks each candidate with."""
    return script.split(start, 1)[1].split(end, 1)[0]


def test_both_probes_ask_the_same() -> None:
    """The Python in both scripts compiles and gives the same verdicts for the same versions."""
    windows = probe_of(POWERSHELL.decode("ascii").replace("\r\n", "\n"), "$probe = @'\n", "\n'@")
    linux = probe_of(SHELL, "probe='\n", "\n'")
    for source in (windows, linux):
        ast.parse(source)
    words = [set(re.findall(r"""["'](ok|venv|bits|version|kind) ["']""", source)) for source in (windows, linux)]
    bounds = [re.findall(r"\(3, \d+\)", source) for source in (windows, linux)]
    assert words[0] == words[1] == {"ok", "venv", "bits", "version", "kind"}
    assert bounds[0] == bounds[1] == ["(3, 10)", "(3, 15)"]
    assert '"' not in windows, "PowerShell 5.1 drops double quotes in arguments"
