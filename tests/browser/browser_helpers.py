"""What the browser tests talk to: a running page, and a visitor who has it open.

Waiting is always for something to be seen, never for a time, so a slow machine is only slower. ``PATIENCE_S`` bounds
every wait.
"""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(check: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait for something outside of the page, or for several things on it."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def answers(url: str) -> bool:
    """Whether a server is there already."""
    try:
        urllib.request.urlopen(f"{url}/health", timeout=10).close()
    except OSError:
        return False
    return True


@dataclass
class Site:
    """A running page, which keeps its files in ``data``; ``state`` is what its scripted service has seen."""

    url: str
    make: Callable[[], BaseProcess]
    data: Path = Path()
    process: BaseProcess | None = None

    def state(self) -> dict[str, Any]:
        """Ask the scripted service."""
        return self._ask("state")

    def ticket(self) -> dict[str, Any]:
        """The newest answer."""
        return dict(self.state()["tickets"][-1])

    def hold(self) -> None:
        """Let loadings come half the way and whoever waits in line wait, until :meth:`release`."""
        self._ask("hold")

    def release(self) -> None:
        """Let loadings end, and the line go on."""
        self._ask("release")

    def start(self) -> None:
        """Start its process, and wait for the first answer of the server."""
        self.process = self.make()
        self.process.start()
        until(self._is_open, 2 * PATIENCE_S)

    def restart(self) -> None:
        """Kill the server as a power cut would, and start it again on the same port."""
        self.end(as_power_cut=True)
        self.start()

    def end(self, *, as_power_cut: bool = False) -> None:
        """End the server: politely at first, unless it is to be killed."""
        assert self.process is not None
        if not as_power_cut:
            self.process.terminate()
            self.process.join(10)
        self.process.kill()
        self.process.join(15)

    def _is_open(self) -> bool:
        assert self.process is not None
        assert self.process.is_alive(), f"the page ended with {self.process.exitcode}"
        return answers(self.url)

    def _ask(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/scripted/{what}", timeout=10) as reply:
            return dict(json.load(reply))


@dataclass
class Visit:
    """An open page and the addresses outside this machine that it asked for."""

    page: Any
    site: Site
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

    def limit(self, tokens: int, slider: str = "#cg-max-new-tokens") -> None:
        """Set how many new tokens there are at most; the Chat page's settings are folded at first."""
        if slider.startswith("#cg-chat") and not self.page.locator(slider).is_visible():
            self.page.click("#cg-chat-settings > button")
        self.page.fill(f"{slider} input[type=number]", str(tokens))
        self.page.press(f"{slider} input[type=number]", "Tab")

    def reach(self, selector: str) -> None:
        """Press Tab until the focus is on the element or in it, as somebody without a mouse does."""
        for _ in range(80):
            self.page.keyboard.press("Tab")
            if self.page.evaluate("selector => !!document.activeElement.closest(selector)", selector):
                return
        raise AssertionError(f"Tab never leads to {selector}")

    def use_every_page(self, said: str) -> Iterator[str]:
        """Go through all pages and use each; gives the name of each, where it is to be looked at."""
        page = self.page
        self.send("AI是什么？")
        self.status("done")
        yield "prompt"
        self.tab(0, "#cg-chat-box textarea")
        page.fill("#cg-chat-box textarea", said)
        page.press("#cg-chat-box textarea", "Enter")
        page.locator("#cg-chat-status .cg-status[data-phase=done]").wait_for()
        yield "chat"
        self.tab(2, "#cg-compare-prompt textarea")
        page.fill("#cg-compare-prompt textarea", "AI是什么？")
        page.click("#cg-compare-generate")
        page.locator("#cg-compare-status-b .cg-status[data-phase=done]").wait_for()
        yield "compare"
        self.tab(3, "#cg-speed-start")
        page.click("#cg-speed-start")
        yield "speed, running"
        page.locator("#cg-speed-download a").wait_for()
        yield "speed"
        self.tab(4, "#cg-model-source")
        page.fill("#cg-model-source :is(input, textarea)", "THUDM/chatglm3-6b")
        page.click("#cg-doctor-run")
        page.locator("#cg-doctor dl").wait_for()
        yield "model"
        self.tab(5, "#cg-batch-start")
        yield "batch"

    def tab(self, number: int, seen: str) -> None:
        """Open one of the pages, on which ``seen`` then stands."""
        self.page.get_by_role("tab").nth(number).click()
        self.page.locator(seen).wait_for()


Serve = Callable[..., Site]
Visitor = Callable[..., Visit]
