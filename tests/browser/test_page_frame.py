"""What surrounds every page: the row of tabs, its keys, and the widths from phone to wall."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable

import pytest
from browser_helpers import Serve, Visitor, until

pytestmark = pytest.mark.browser

_TABS = ("chat", "prompt", "compare", "speed", "model", "batch")


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_every_page_fits_every_width(serve: Serve, visitor: Visitor, language: str) -> None:
    """All tabs stand in the row and nothing scrolls sideways, from 320 to 2560 pixels."""
    page = visitor(serve("demo"), language=language, width=360).page
    found = {}
    for number, name in enumerate(_TABS):
        page.get_by_role("tab").nth(number).click()
        page.locator(f"#cg-tab-{name}").wait_for()
        for width in (320, 360, 390, 768, 1280, 1920, 2560):
            page.set_viewport_size({"width": width, "height": 900})
            found[width, name] = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            row, last = page.get_by_role("tablist").bounding_box(), page.get_by_role("tab").last.bounding_box()
            assert page.get_by_role("tab").count() == len(_TABS)
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
        panel.wait_for()
        assert panel.get_attribute("role") == "tabpanel"
    assert opened == ["prompt", "batch", "chat", "batch", "chat"]


_SHOWN = """() => {
  const found = new Set();
  const add = (text) => { const line = text.trim(); if (/[A-Za-z]{3}/.test(line)) found.add(line); };
  for (const part of document.querySelectorAll(".gradio-container *")) {
    if (part.closest("script, style, [lang=en], #cg-doctor dd")) continue;
    for (const name of ["aria-label", "title", "placeholder", "alt"]) add(part.getAttribute(name) || "");
    for (const node of part.childNodes) if (node.nodeType === Node.TEXT_NODE) add(node.data);
  }
  return [...found];
}"""
# Names, units and keys are the same in every language.
_SAME = (
    r"scripted-chatglm|vnni|(\S+/)?(chat|code)?(glm|geex)\S*|[\d.]+ tok/s|[\d.]+ (GB|MB)(, INT4)?|INT4|JSON|Top-p|bigdl"
    r"|\./launch\.sh --model \S+|\./output/\S+|HTTP \d+|CPU"
)


def _foreign(texts: Iterable[str]) -> list[str]:
    """Those without a Chinese character that are no names."""
    return sorted(
        text for text in texts if not re.search("[\u4e00-\u9fff]", text) and not re.fullmatch(_SAME, text, re.I)
    )


def test_a_chinese_page_says_everything_in_chinese(serve: Serve, visitor: Visitor) -> None:
    """Texts, labels, titles, placeholders, Gradio's own among them, on every page, used; no other host is asked."""
    visit = visitor(serve("demo"), language="zh-CN")
    page = visit.page
    shown: set[str] = set()

    for _ in visit.use_every_page("AI是什么？"):
        with contextlib.suppress(AssertionError):  # until Gradio's own labels have been put into Chinese
            until(lambda: not _foreign(page.evaluate(_SHOWN)), 10)
        shown.update(page.evaluate(_SHOWN))
    assert len(shown) > 30
    assert _foreign(shown) == []
    assert (visit.foreign, visit.faults) == ([], [])
