"""Commands of the terminal, run here or in a process of their own, and what they wrote."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chatglm_backend.cli.app import main
from chatglm_backend.sentences import load_texts

ROOT = Path(__file__).resolve().parents[2]


def environment(**changes: str) -> dict[str, str]:
    """The test's own environment with few threads."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "", "NO_COLOR": "1", **changes}


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def without_progress(text: str) -> str:
    """What was said, without the lines that a slow machine gets while it loads."""
    texts = load_texts("en")
    stages = (texts(code) for code in texts.codes if code.startswith("load."))
    progress = tuple(f"{stage}{mark}" for stage in stages for mark in (" [", " ..."))
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(progress))


def run(*arguments: str, text: str = "", **changes: str) -> Done:
    """Run one command to its end, here."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(**changes).items():
            patch.setenv(name, value)
        patch.setattr(sys, "stdin", io.StringIO(text))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    return Done(code, out.getvalue(), without_progress(err.getvalue()))


def started(*arguments: str, **changes: str) -> Any:
    """Start one command in a process of its own, its three streams apart."""
    command = [sys.executable, "-m", "chatglm_backend", *arguments]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, cwd=ROOT, env=environment(**changes), encoding="utf-8", **pipes)


def ended(process: Any, seconds: float = 110) -> Done:
    """Wait for the end of a process."""
    with process:
        out, err = process.communicate(timeout=seconds)
    return Done(process.returncode, out, without_progress(err))


def converted() -> list[Path]:
    """The weights of low-bit checkpoints in the test's cache."""
    return sorted(Path(os.environ["CHATGLM_CACHE"]).glob("low-bit/**/*.safetensors"))


def document_of(*arguments: str, **options: str) -> dict[str, Any]:
    """What a command says with ``--json``."""
    found: dict[str, Any] = json.loads(run(*arguments, "--json", **options).stdout)
    return found
