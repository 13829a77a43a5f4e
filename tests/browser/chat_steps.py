"""What the tests of the Chat page do again and again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

from browser_helpers import Site, Visit

STATUS = "#cg-chat-status .cg-status"
ANSWERS = "#cg-chat .bot.message"
BOX = "#cg-chat-box textarea"


def open_chat(visit: Visit) -> Visit:
    """Go to the Chat page."""
    visit.page.get_by_role("tab").nth(1).click()
    visit.page.locator(BOX).wait_for(timeout=30_000)
    return visit


def say(visit: Visit, text: str, *, answered: bool = True) -> None:
    """Send a message; wait for the whole answer."""
    rounds = visit.page.locator(ANSWERS).count()
    visit.page.fill(BOX, text)
    visit.page.press(BOX, "Enter")
    if answered:
        visit.page.locator(ANSWERS).nth(rounds).wait_for(timeout=20_000)
        visit.page.locator(f"{STATUS}[data-phase=done]").wait_for(timeout=20_000)


def written(visit: Visit, text: str) -> None:
    """Wait until the last answer holds ``text``."""
    visit.page.locator(ANSWERS, has_text=text).last.wait_for(timeout=30_000)


def until(check: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something outside of the page."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def restart(site: Site, **environment: str) -> None:
    """Kill the server as a power cut would, and start it again on the same port."""
    site.process.kill()
    site.process.wait(15)
    arguments = list(site.process.args)  # type: ignore[arg-type]
    site.process = subprocess.Popen(arguments, env={**os.environ, **environment})

    def answers() -> bool:
        try:
            site.state()
        except OSError:
            return False
        return True

    until(answers, 60)
