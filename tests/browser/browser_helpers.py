"""What the browser tests talk to: a running page, and a visitor who has it open.

Waiting is always for something to be seen, never for a time, so a slow machine is only slower. ``PATIENCE_S`` bounds
every wait.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 60.0


def until(check: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait for something outside of the page, or for several things on it."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


@dataclass
class Site:
    """A running page; ``state`` is what its scripted service has seen."""

    url: str
    process: subprocess.Popen[bytes]
    environment: dict[str, str] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Ask the scripted service."""
        return self._ask("state")

    def ticket(self) -> dict[str, Any]:
        """The newest answer."""
        return dict(self.state()["tickets"][-1])

    def hold_loading(self) -> None:
        """Let loadings come half the way, until :meth:`end_loading`."""
        self._ask("hold")

    def end_loading(self) -> None:
        """Let loadings end."""
        self._ask("release")

    def wait_until_open(self) -> None:
        """Wait for the first answer of the server."""

        def answers() -> bool:
            assert self.process.poll() is None, f"the page ended with {self.process.returncode}"
            try:
                self.state()
            except OSError:
                return False
            return True

        until(answers, 2 * PATIENCE_S)

    def restart(self) -> None:
        """Kill the server as a power cut would, and start it again on the same port."""
        self.process.kill()
        self.process.wait(15)
        arguments = list(self.process.args)  # type: ignore[arg-type]
        self.process = subprocess.Popen(arguments, env={**os.environ, **self.environment})
        self.wait_until_open()

    def _ask(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/scripted/{what}", timeout=10) as reply:
            return dict(json.load(reply))


@dataclass
class Visit:
    """An open page and the addresses outside this machine that it asked for."""

    page: Any
    foreign: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def status(self, phase: str) -> str:
        """Wait until the answer is in ``phase``; returns what the page says."""
        found = self.page.locator(f".cg-status[data-phase={phase}]:visible")
        found.wait_for()
        return str(found.inner_text())

    def output(self) -> str:
        """The answer as shown."""
        return str(self.page.input_value("#cg-output textarea"))

    def answered(self, text: str) -> None:
        """Wait until the answer ended and is this."""
        self.status("done")
        until(lambda: self.output() == text)

    def send(self, prompt: str) -> None:
        """Type a prompt and send it from the keyboard."""
        self.page.fill("#cg-prompt textarea", prompt)
        self.page.press("#cg-prompt textarea", "Control+Enter")

    def tab(self, number: int, seen: str) -> None:
        """Open one of the five pages, on which ``seen`` then stands."""
        self.page.get_by_role("tab").nth(number).click()
        self.page.locator(seen).wait_for()


Serve = Callable[..., Site]
Visitor = Callable[..., Visit]
