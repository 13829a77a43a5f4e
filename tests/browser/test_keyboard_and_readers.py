"""Every page without a mouse, and before the accessibility checker, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser_helpers import Serve, Visit, Visitor, until

pytestmark = pytest.mark.browser

_AXE = Path(__file__).with_name("vendor") / "axe.min.js"


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
    """From the address bar to an answer, a conversation, a comparison, a speed test, another model."""
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
    _open(page, "chat")
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


@pytest.mark.parametrize(("language", "scheme"), [("en-US", "light"), ("zh-CN", "dark")])
def test_no_page_has_a_serious_accessibility_finding(
    serve: Serve, visitor: Visitor, language: str, scheme: str
) -> None:
    """Contrast, names, roles and order on every page, fresh and once it has been used, wide and on a phone."""
    visit = visitor(serve("demo"), language=language, scheme=scheme)
    page = visit.page
    page.evaluate(_AXE.read_text(encoding="utf-8"))
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    findings = []

    def look(where: str, width: int) -> None:
        page.set_viewport_size({"width": width, "height": 900})
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert len(result["passes"]) > 10
        findings.extend(
            (where, width, item["id"], [node["html"][:160] for node in item["nodes"]])
            for item in result["violations"]
            if item["impact"] in ("serious", "critical")
        )

    for tab in page.get_by_role("tab").all():
        tab.click()
        page.locator(f"#cg-tab-{tab.get_attribute('data-tab-id')}").wait_for()
        look(f"fresh {tab.inner_text()}", 1280)
    page.get_by_role("tab").nth(1).click()
    for where in visit.use_every_page("code please"):
        if where == "chat":
            page.locator("#cg-chat .token.keyword").first.wait_for()
        for width in (360, 1280):
            look(where, width)
    assert findings == []
