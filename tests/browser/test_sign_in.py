"""A shared page in a real browser: the door, the link, and a content policy that the page keeps to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser_helpers import PATIENCE_S, Serve

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]

TOKEN = "a-token-for-tests"  # noqa: S105
_TELL = "window.refused = []; addEventListener('securitypolicyviolation', e => refused.push(e.violatedDirective))"


@pytest.fixture
def address(serve: Serve) -> str:
    """A page that asks for a token, on a scripted model."""
    return serve("locked").url


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A new visitor's page, which notes what the content policy refuses."""
    context = chromium.new_context(locale="en-US")
    context.add_init_script(_TELL)
    yield context.new_page()
    context.close()


def test_the_door_and_a_page_that_keeps_to_its_policy(address: str, page: Any) -> None:
    """A wrong token is said to be wrong; the right one leads to the page, and the address holds no token.

    An answer is made and all tabs are opened; nothing on them was refused, and a foreign script would have been.
    """
    page.goto(address)
    assert page.title() == "Sign in"
    for typed in ("not the one", TOKEN):
        page.fill("#token", typed)
        page.get_by_role("button").click()
        if typed != TOKEN:
            page.get_by_role("alert").wait_for(timeout=PATIENCE_S * 1000)
    page.locator("#cg-chat-box textarea").wait_for(timeout=PATIENCE_S * 1000)
    assert TOKEN not in page.url
    page.fill("#cg-chat-box textarea", "What is AI?")
    page.press("#cg-chat-box textarea", "Enter")
    page.locator(".cg-status[data-phase=done]:visible").wait_for(timeout=PATIENCE_S * 1000)
    for number, name in enumerate(("chat", "prompt", "compare", "speed", "model", "batch")):
        page.get_by_role("tab").nth(number).click()
        page.locator(f"#cg-tab-{name}").wait_for(timeout=PATIENCE_S * 1000)
    assert page.evaluate("refused") == []
    page.evaluate("document.head.append(Object.assign(document.createElement('script'), {text: 'window.bad = 1'}))")
    page.wait_for_function("refused.length > 0", timeout=PATIENCE_S * 1000)
    assert page.evaluate("window.bad") is None


def test_the_link_opens_the_page(address: str, chromium: Any) -> None:
    """Whoever follows it is let in, and the address that is left holds no token."""
    context = chromium.new_context()
    opened = context.request.get(f"{address}/?token={TOKEN}")
    assert (opened.status, "Sign in" in opened.text(), "gradio_config" in opened.text()) == (200, False, True)
    assert TOKEN not in opened.url
    context.close()
