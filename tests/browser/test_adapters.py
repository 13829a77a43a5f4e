"""Fine-tunes in a real browser: chosen on each page, remembered by conversations, listed on the Model page."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visitor, until

pytestmark = pytest.mark.browser

ANSWER = "AI is the study of machines that learn."


def test_each_page_asks_the_fine_tune_that_it_shows(serve: Serve, visitor: Visitor) -> None:
    """The first at the start; Compare sets the model itself against it; a conversation comes back with its own."""
    site = serve("tuned")
    visit = visitor(site)
    page = visit.page
    until(lambda: page.input_value("#cg-adapter input") == "polite")
    visit.send("What is AI?")
    visit.answered(ANSWER)
    visit.tab(2, "#cg-compare-prompt")
    page.fill("#cg-compare-prompt textarea", "What is AI?")
    page.press("#cg-compare-prompt textarea", "Control+Enter")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side} .cg-status[data-phase=done]").wait_for()
    assert (site.state()["adapters"][0], sorted(site.state()["adapters"][1:])) == ("polite", ["", "polite"])
    visit.tab(0, "#cg-chat-box")
    page.click("#cg-chat-adapter input")
    page.get_by_role("option", name="terse").click()
    page.fill("#cg-chat-box textarea", "What is AI?")
    page.press("#cg-chat-box textarea", "Enter")
    page.locator("#cg-chat-status .cg-status[data-phase=done]").wait_for()
    assert site.state()["adapters"][-1] == "terse"
    page.reload()
    visit.tab(0, "#cg-chat-box")
    page.locator("#cg-chat", has_text=ANSWER).wait_for()
    until(lambda: page.input_value("#cg-chat-adapter input") == "terse")
    visit.tab(4, "#cg-adapters table")
    assert "terse" in page.inner_text("#cg-adapters")
    assert visit.faults == []
