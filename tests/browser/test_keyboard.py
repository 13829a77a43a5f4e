"""Every page without a mouse, in a real browser."""

from __future__ import annotations

from typing import Any

import pytest
from browser_helpers import Visit, until

pytestmark = pytest.mark.browser


def _open(page: Any, name: str) -> None:
    """Go to a page with arrow keys."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("Home")
    while page.evaluate("document.activeElement.dataset.tabId") != name:
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator(f"#cg-tab-{name}").wait_for()


def test_every_page_is_used_with_the_keyboard_alone(visit: Visit) -> None:
    """From the address bar to an answer, a conversation, a comparison, a speed test, another model.

    Arrows, End and Home move the focus along the tabs, Enter opens; a screen reader finds the panel of each tab.
    """
    page = visit.page
    page.evaluate("document.activeElement.blur()")
    visit.reach("[data-action=language]")
    visit.reach("[data-action=theme]")
    visit.reach("[role=tab]")
    visit.reach("#cg-prompt")
    page.keyboard.type("What is AI?")
    visit.reach("#cg-generate")
    page.keyboard.press("Enter")
    page.locator("#cg-answer-status .cg-status[data-phase=done]").wait_for()
    page.locator("[role=tab]").first.focus()
    opened = []
    for key in ("ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home"):
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        chosen = page.locator("[role=tab][aria-selected=true]")
        opened.append(chosen.get_attribute("data-tab-id"))
        panel = page.locator(f"#{chosen.get_attribute('aria-controls')}")
        panel.wait_for()
        assert panel.get_attribute("role") == "tabpanel"
    assert opened == ["prompt", "batch", "chat", "batch", "chat"]
    visit.reach("#cg-chat-box")
    page.keyboard.type("What is AI?")
    page.keyboard.press("Enter")
    page.locator("#cg-chat-status .cg-status[data-phase=done]").wait_for()
    _open(page, "compare")
    visit.reach("#cg-compare-prompt")
    page.keyboard.type("What is AI?")
    visit.reach("#cg-compare-settings-b > button")
    page.keyboard.press("Enter")
    visit.reach("#cg-compare-format-b")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.locator("#cg-compare-prompt textarea").focus()
    visit.reach("#cg-compare-generate")
    page.keyboard.press("Enter")
    page.locator("#cg-compare-status-b .cg-status[data-phase=done]").wait_for()
    assert sorted(visit.site.state()["formats"][-2:]) == ["chat", "recipe"]
    _open(page, "speed")
    visit.reach("#cg-speed-start")
    page.keyboard.press("Enter")
    page.locator("#cg-speed-download a").wait_for()
    visit.reach("#cg-speed-download a")
    _open(page, "model")
    visit.reach("#cg-model-source")
    page.keyboard.type("/models/other")
    visit.reach("#cg-model-load")
    page.keyboard.press("Enter")
    until(lambda: visit.site.state()["loaded"][-1] == "/models/other")
