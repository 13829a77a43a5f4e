"""``python -m chatglm_backend``; a Python without our packages gets one sentence instead of a traceback."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence


def start(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        from chatglm_backend.cli.app import main
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("chatglm_backend"):
            raise
        return _tell(str(error.name), as_json="--json" in arguments)
    return main(arguments)


def _tell(missing: str, *, as_json: bool) -> int:
    script, python = (
        (".\\launch.ps1", ".venv\\Scripts\\python") if os.name == "nt" else ("./launch.sh", ".venv/bin/python")
    )
    sentence = (
        f"{missing} is not installed for {sys.executable}: run {script} --setup-only once, "
        f"then {python} -m chatglm_backend."
    )
    sys.stderr.write(sentence + "\n")
    if as_json:
        document = {"ok": False, "error": {"code": "not_installed", "message": sentence}}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
