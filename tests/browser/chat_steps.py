"""What the tests of the Chat page do again and again."""

from __future__ import annotations

from browser_helpers import Visit

STATUS = "#cg-chat-status .cg-status"
ANSWERS = "#cg-chat .bot.message"
BOX = "#cg-chat-box textarea"


def open_chat(visit: Visit) -> Visit:
    """Go to the Chat page."""
    visit.tab(0, BOX)
    return visit


def say(visit: Visit, text: str, *, answered: bool = True) -> None:
    """Send a message; wait for the whole answer."""
    rounds = visit.page.locator(ANSWERS).count()
    visit.page.fill(BOX, text)
    visit.page.press(BOX, "Enter")
    if answered:
        visit.page.locator(ANSWERS).nth(rounds).wait_for()
        ended(visit)


def written(visit: Visit, text: str) -> None:
    """Wait until the last answer holds ``text``."""
    visit.page.locator(ANSWERS, has_text=text).last.wait_for()


def answers(visit: Visit, count: int) -> None:
    """Wait until so many answers stand on the page."""
    visit.page.wait_for_function(f"document.querySelectorAll('{ANSWERS}').length === {count}")


def ended(visit: Visit) -> None:
    """Wait for the end of the answer."""
    visit.page.locator(f"{STATUS}[data-phase=done]").wait_for()


def titles(visit: Visit, *expected: str) -> None:
    """Wait until the list of conversations has these rows."""
    visit.page.wait_for_function(
        "titles => JSON.stringify([...document.querySelectorAll('#cg-history .cg-open span')].map(e => e.innerText))"
        " === JSON.stringify(titles)",
        arg=list(expected),
    )
