"""Commands that can be typed as they stand, on this system. Standard library only."""

from __future__ import annotations

import os
import sys

from chatglm_backend.sentences import Sentence


def start_command(model: str = "THUDM/chatglm-6b") -> str:
    """What starts the page with a model, fetching it first if need be, in the program's folder."""
    script = "powershell -ExecutionPolicy Bypass -File .\\launch.ps1" if os.name == "nt" else "./launch.sh"
    return f"{script} --model {model}"


def missing_sentence(error: ModuleNotFoundError) -> str:
    """One sentence with the fix; empty where the missing module is one of ours, which is a mistake in the code."""
    name = error.name or ""
    if not name or name.partition(".")[0] == "chatglm_backend":
        return ""
    script, python = (
        (".\\launch.ps1", ".venv\\Scripts\\python") if os.name == "nt" else ("./launch.sh", ".venv/bin/python")
    )
    return str(Sentence("fix.not_installed_for", name=name, python=sys.executable, script=script, own=python))
