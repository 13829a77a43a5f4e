"""What to say where a package is not installed. Standard library only."""

from __future__ import annotations

import os
import sys

__all__ = ["missing_sentence"]


def missing_sentence(error: ModuleNotFoundError) -> str:
    """One sentence with the fix; empty where the missing module is one of ours, which is a mistake in the code."""
    name = error.name or ""
    if not name or name.partition(".")[0] == "chatglm_backend":
        return ""
    script, python = (
        (".\\launch.ps1", ".venv\\Scripts\\python") if os.name == "nt" else ("./launch.sh", ".venv/bin/python")
    )
    return (
        f"{name} is not installed for {sys.executable}: run {script} --setup-only once, "
        f"then {python} -m chatglm_backend."
    )
