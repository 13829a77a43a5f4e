"""What surrounds every page: the row of tabs, its keys, and the widths from phone to wall."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]

_TABS = ("prompt", "chat", "compare", "speed", "model")


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_every_page_fits_every_width(serve: Serve, visitor: Visitor, language: str) -> None:
    """All five tabs stand in the row and nothing scrolls sideways, from 320 to 2560 pixels."""
    page = visitor(serve("demo"), language=language, width=360).page
    found = {}
    for width in (320, 360, 390, 768, 1280, 1920, 2560):
        page.set_viewport_size({"width": width, "height": 900})
        for number, name in enumerate(_TABS):
            page.get_by_role("tab").nth(number).click()
            page.locator(f"#cg-tab-{name}").wait_for(timeout=15_000)
            found[width, name] = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert page.get_by_role("tab").count() == len(_TABS)
        row, last = page.get_by_role("tablist").bounding_box(), page.get_by_role("tab").last.bounding_box()
        assert last["x"] + last["width"] <= row["x"] + row["width"]
    assert {key: over for key, over in found.items() if over > 0} == {}


def test_tabs_are_walked_with_arrow_keys_and_name_their_panels(serve: Serve, visitor: Visitor) -> None:
    """Right, End and Home move the focus, Enter opens; a screen reader finds the panel of each tab."""
    page = visitor(serve("demo")).page
    tabs = page.get_by_role("tab")
    tabs.first.focus()
    opened = []
    for key in ("ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home"):
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        chosen = page.locator("[role=tab][aria-selected=true]")
        opened.append(chosen.get_attribute("data-tab-id"))
        panel = page.locator(f"#{chosen.get_attribute('aria-controls')}")
        panel.wait_for(timeout=15_000)
        assert panel.get_attribute("role") == "tabpanel"
    assert opened == ["chat", "model", "prompt", "model", "prompt"]
