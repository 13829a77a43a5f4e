"""A system under test in a process of its own, with its own interpreter: one JSON order a line, one JSON answer a line.

Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, TextIO, cast

HERE = Path(__file__).resolve().parent


class Worker:
    """Orders in, figures out. Its first line says whether it is ready, and why not."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent.parent
        )
        self._greeting = self._answer()

    @property
    def ready(self) -> bool:
        """Whether the system can be measured."""
        return bool(self._greeting.get("ready"))

    @property
    def reason(self) -> str:
        """Why it is not ready."""
        return str(self._greeting.get("reason", ""))

    def ask(self, **order: int) -> dict[str, Any]:
        """One measurement. Raises RuntimeError when the process has ended."""
        stdin = cast("TextIO", self._process.stdin)
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()
        answer = self._answer()
        if answer.get("ready") is False:
            raise RuntimeError(f"{self.name} {answer['reason']}")
        return answer

    def close(self) -> None:
        """End the process."""
        cast("TextIO", self._process.stdin).close()
        self._process.wait(timeout=60)

    def _answer(self) -> dict[str, Any]:
        for line in cast("TextIO", self._process.stdout):
            if line.startswith("{"):
                return cast("dict[str, Any]", json.loads(line))
        return {"ready": False, "reason": f"ended with {self._process.wait()}"}
