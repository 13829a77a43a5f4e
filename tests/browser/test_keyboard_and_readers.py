"""Every page without a mouse, and before the accessibility checker, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser_helpers import Serve, Visitor, until
from chat_steps import open_chat, say, written

pytestmark = pytest.mark.browser

_AXE = Path(__file__).with_name("vendor") / "axe.min.js"


def _reach(page: Any, selector: str) -> None:
    """Press Tab until the focus is on the element, as somebody without a mouse does."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("selector => !!document.activeElement.closest(selector)", selector):
            return
    raise AssertionError(f"Tab never leads to {selector}")


def _open(page: Any, name: str) -> None:
    """Go to a page with arrow keys."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.locator("[role=tab][aria-selected=true]").focus()
    page.keyboard.press("Home")
    while page.evaluate("document.activeElement.dataset.tabId") != name:
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator(f"#cg-tab-{name}").wait_for()


def test_every_page_is_used_with_the_keyboard_alone(serve: Serve, visitor: Visitor) -> None:
    """From the address bar to an answer, a conversation, a comparison, a speed test, another model."""
    site = serve()
    page = visitor(site).page
    page.evaluate("document.activeElement.blur()")
    _reach(page, "[data-action=language]")
    _reach(page, "[data-action=theme]")
    _reach(page, "[role=tab]")
    _reach(page, "#cg-prompt")
    page.keyboard.type("What is AI?")
    _reach(page, "#cg-generate")
    page.keyboard.press("Enter")
    page.locator("#cg-answer-status .cg-status[data-phase=done]").wait_for()
    _open(page, "chat")
    _reach(page, "#cg-chat-box")
    page.keyboard.type("What is AI?")
    page.keyboard.press("Enter")
    page.locator("#cg-chat-status .cg-status[data-phase=done]").wait_for()
    _open(page, "compare")
    _reach(page, "#cg-compare-prompt")
    page.keyboard.type("What is AI?")
    _reach(page, "#cg-compare-format-b")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.locator("#cg-compare-prompt textarea").focus()
    _reach(page, "#cg-compare-generate")
    page.keyboard.press("Enter")
    page.locator("#cg-compare-status-b .cg-status[data-phase=done]").wait_for()
    assert sorted(site.state()["formats"][-2:]) == ["chat", "recipe"]
    _open(page, "speed")
    _reach(page, "#cg-speed-start")
    page.keyboard.press("Enter")
    page.locator("#cg-speed-download a").wait_for()
    _reach(page, "#cg-speed-download a")
    _open(page, "model")
    _reach(page, "#cg-model-source")
    page.keyboard.type("/models/other")
    _reach(page, "#cg-model-load")
    page.keyboard.press("Enter")
    until(lambda: site.state()["loaded"][-1] == "/models/other")


@pytest.mark.parametrize(
    ("language", "width", "scheme"),
    [("en-US", 1280, "light"), ("en-US", 360, "dark"), ("zh-CN", 1280, "dark"), ("zh-CN", 360, "light")],
)
def test_no_page_has_a_serious_accessibility_finding(
    serve: Serve, visitor: Visitor, language: str, width: int, scheme: str
) -> None:
    """Contrast, names, roles and order on every page, as it is opened and once it has been used."""
    visit = visitor(serve("demo"), language=language, width=width, scheme=scheme)
    page = visit.page
    visit.send("AI是什么？")
    visit.status("done")
    page.evaluate(_AXE.read_text(encoding="utf-8"))
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    findings = []

    def check(where: str) -> None:
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        assert len(result["passes"]) > 10
        findings.extend(
            (where, item["id"], [node["html"][:160] for node in item["nodes"]])
            for item in result["violations"]
            if item["impact"] in ("serious", "critical")
        )

    check("prompt")
    say(open_chat(visit), "code please")
    written(visit, "That adds.")
    page.locator("#cg-chat .token.keyword").first.wait_for()
    check("chat")
    page.get_by_role("tab").nth(2).click()
    check("compare")
    page.get_by_role("tab").nth(3).click()
    page.click("#cg-speed-start")
    check("speed, running")
    page.locator("#cg-speed-download a").wait_for()
    check("speed")
    page.get_by_role("tab").nth(4).click()
    page.fill("#cg-model-source input, #cg-model-source textarea", "THUDM/chatglm3-6b")
    page.click("#cg-doctor-run")
    page.locator("#cg-doctor dl").wait_for()
    check("model")
    assert findings == []
