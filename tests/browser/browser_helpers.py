"""What the browser tests talk to: a running page, and a visitor who has it open."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Site:
    """A running page; ``state`` is what its scripted service has seen."""

    url: str
    process: subprocess.Popen[bytes]

    def state(self) -> dict[str, Any]:
        """Ask the scripted service."""
        with urllib.request.urlopen(f"{self.url}/scripted/state", timeout=10) as reply:
            return dict(json.load(reply))


@dataclass
class Visit:
    """An open page and the addresses outside this machine that it asked for."""

    page: Any
    foreign: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def status(self, phase: str, timeout_s: float = 15) -> str:
        """Wait until the answer is in ``phase``; returns what the page says."""
        found = self.page.locator(f".cg-status[data-phase={phase}]:visible")
        found.wait_for(timeout=timeout_s * 1000)
        return str(found.inner_text())

    def output(self) -> str:
        """The answer as shown."""
        return str(self.page.input_value("#cg-output textarea"))

    def send(self, prompt: str) -> None:
        """Type a prompt and send it from the keyboard."""
        self.page.fill("#cg-prompt textarea", prompt)
        self.page.press("#cg-prompt textarea", "Control+Enter")


Serve = Callable[..., Site]
Visitor = Callable[..., Visit]
