"""What surrounds and fills every page, fresh and used: accessibility, widths from phone to wall, one language."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import Serve, Visitor, until

pytestmark = pytest.mark.browser

_AXE = Path(__file__).with_name("vendor") / "axe.min.js"
_WIDTHS = (320, 360, 390, 768, 1280, 1920, 2560)
# How many rules were kept, and what is broken seriously.
_CHECK = """async () => {
  const found = await axe.run(document, { resultTypes: ["violations"], selectors: false });
  const serious = found.violations.filter((one) => ["serious", "critical"].includes(one.impact));
  return [found.passes.length, serious.map((one) => [one.id, one.nodes.map((node) => node.html.slice(0, 160))])];
}"""
# How far the page goes beyond the window, the last tab beyond the row of tabs, and how many tabs there are.
_FITS = """() => {
  const tabs = [...document.querySelectorAll("[role=tab]")].filter((tab) => tab.checkVisibility());
  const ends = (part) => part.getBoundingClientRect().right;
  return [document.documentElement.scrollWidth - innerWidth,
          ends(tabs.at(-1)) - ends(document.querySelector("[role=tablist]")), tabs.length];
}"""
# What is said in letters or characters, but for what is marked as another language's.
_SHOWN = """(language) => {
  const found = new Set(), other = language === "en" ? "[lang^=zh]" : "[lang=en]";
  const add = (text) => { const line = text.trim(); if (/[A-Za-z]{3}|[\u4e00-\u9fff]/.test(line)) found.add(line); };
  for (const part of document.querySelectorAll(".gradio-container *")) {
    if (part.closest(`script, style, ${other}, #cg-doctor dd`)) continue;
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

# The form of the recipe's prompts, as it is sent.
_RECIPE = "问：… 答："


def _foreign(texts: Iterable[str], language: str) -> list[str]:
    """English: those with a Chinese character. Chinese: those without one that are no names."""
    if language == "en":
        return sorted(text for text in texts if re.search("[\u4e00-\u9fff]", text.replace(_RECIPE, "")))
    return sorted(
        text for text in texts if not re.search("[\u4e00-\u9fff]", text) and not re.fullmatch(_SAME, text, re.I)
    )


@dataclass
class _Seen:
    """What was found on a page while it was walked through."""

    page: Any
    language: str
    findings: list[Any] = field(default_factory=list)
    too_wide: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    texts: set[str] = field(default_factory=set)

    def check(self, where: str, width: int) -> None:
        """Run the accessibility checker at a width."""
        self.page.set_viewport_size({"width": width, "height": 900})
        kept, serious = self.page.evaluate(_CHECK)
        assert kept > 10
        self.findings += [(where, width, *found) for found in serious]

    def measure(self, where: str, tabs: int) -> None:
        """Look for what does not fit, at every width; ``tabs`` are to be in the row."""
        for width in _WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 900})
            over, row, count = self.page.evaluate(_FITS)
            if over > 0 or row > 0 or count != tabs:
                self.too_wide[where, width] = [over, row, count]

    def read(self) -> None:
        """Take down what is said, once Gradio's own labels have been put into the page's language."""
        with contextlib.suppress(AssertionError):
            until(lambda: not _foreign(self.page.evaluate(_SHOWN, self.language), self.language), 10)
        self.texts.update(self.page.evaluate(_SHOWN, self.language))


@pytest.mark.parametrize(("language", "scheme"), [("en-US", "light"), ("zh-CN", "dark")])
def test_every_page_is_accessible_fits_and_speaks_one_language(
    serve: Serve, visitor: Visitor, language: str, scheme: str
) -> None:
    """Contrast, names, roles and order, fresh and once it has been used, wide and on a phone; no serious finding.

    All tabs stand in the row and nothing scrolls sideways, from 320 to 2560 pixels. Every text, label,
    title and placeholder is in the page's language, Gradio's own among them; no other host is asked.
    """
    visit = visitor(serve("demo"), language=language, scheme=scheme)
    page = visit.page
    page.evaluate(_AXE.read_text(encoding="utf-8"))
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    seen, tabs = _Seen(page, language[:2]), page.get_by_role("tab").all()
    for tab in tabs:
        name = str(tab.get_attribute("data-tab-id"))
        tab.click()
        page.locator(f"#cg-tab-{name}").wait_for()
        seen.measure(name, len(tabs))
        if name != "batch":  # the last one of the walk below is as fresh
            seen.check(f"fresh {name}", 1280)
    page.set_viewport_size({"width": 1280, "height": 900})
    page.get_by_role("tab").nth(1).click()
    for where in visit.use_every_page("请写代码" if language == "zh-CN" else "code please"):
        if where == "chat":
            page.locator("#cg-chat .token.keyword").first.wait_for()
        for width in (360, 1280):
            seen.check(where, width)
        seen.read()
    assert seen.findings == []
    assert (len(tabs), seen.too_wide) == (6, {})
    assert len(seen.texts) > 30
    assert _foreign(seen.texts, seen.language) == []
    assert (visit.foreign, visit.faults) == ([], [])
