"""Every page as it is before anybody did anything: a moment after a fresh load, and later."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import Serve, Visitor

pytestmark = pytest.mark.browser

_MOMENTS_S = (1, 10)
_TABS = ("chat", "prompt", "compare", "speed", "model", "batch")
_SHOWN = {
    "prompt": (
        "prompt.label", "prompt.generate", "prompt.stop", "prompt.clear", "prompt.output", "prompt.sent",
        "prompt.max_new_tokens", "prompt.sampling", "examples.1", "chat.figures", "status.idle",
    ),
    "chat": ("chat.send", "chat.preset.email", "history.title", "chat.settings", "chat.figures", "status.idle"),
    "compare": (
        "prompt.label", "compare.generate", "compare.stop", "prompt.output", "chat.settings", "chat.figures",
        "status.idle",
    ),
    "speed": ("speed.start", "prompt.stop", "speed.idle"),
    "model": ("model.source", "model.load", "doctor.run", "model.fact.name", "model.fact.threads"),
    "batch": ("batch.choose", "batch.template", "batch.start", "prompt.stop", "batch.idle"),
}  # fmt: skip
_LOOK = """() => {
  const parts = document.querySelectorAll("button, [role=tab], label, dt, dd, .cg-status");
  return [...parts].filter((part) => part.checkVisibility()).map((part) => [
    part.tagName, part.id || part.closest("[id]").id, part.ariaLabel || part.innerText || part.title]);
}"""


_CATALOGUES = Path(__file__).resolve().parents[2] / "chatglm_backend" / "locales"


def _catalogue(language: str) -> dict[str, str]:
    return dict(json.loads((_CATALOGUES / f"{language}.json").read_text(encoding="utf-8")))


@dataclass(frozen=True)
class _Fresh:
    """A page that was just loaded; the Chat page if no ``tabs`` are walked through."""

    page: Any
    texts: Mapping[str, str]
    name: str
    tabs: Sequence[str]
    loaded: float

    def problems(self, seconds: float) -> list[str]:
        """What is wrong with it so long after the load."""
        time.sleep(max(0.0, self.loaded + seconds - time.monotonic()))
        if not self.tabs:
            return [f"{self.name}, {seconds} s: {problem}" for problem in self._wrong("chat")]
        found = []
        for tab in self.tabs:
            self.page.get_by_role("tab").nth(_TABS.index(tab)).click()
            self.page.locator(f"#cg-tab-{tab}").wait_for()
            end = time.monotonic() + 2  # it is built when it is opened
            while (wrong := self._wrong(tab)) and time.monotonic() < end:
                time.sleep(0.05)
            found += [f"{self.name}, {tab}, {seconds} s: {problem}" for problem in wrong]
        return found

    def _wrong(self, tab: str) -> list[str]:
        said, t = set(), self.texts
        named = "|".join(re.escape(t[f"known.{key}_of"]).replace(r"\{name\}", ".+") for key in ("get", "load"))
        strange = []
        for kind, where, text in self.page.evaluate(_LOOK):
            lines = {line.removeprefix("A: ").removeprefix("B: ").strip() for line in text.split("\n")} - {"▼"}
            said |= lines
            if not text.strip() or (kind != "DD" and not lines <= set(t.values()) and not re.fullmatch(named, text)):
                strange.append(f"{kind} of {where} says {text!r}")
        missing = [
            f"{key} is not there" for key in (*(f"tab.{one}" for one in _TABS), *_SHOWN[tab]) if t[key] not in said
        ]
        return strange + missing


def test_a_fresh_page_says_what_the_catalogue_says(serve: Serve, visitor: Visitor) -> None:
    """One and ten seconds after the load, nothing has lost its words: no button, label, status or figure.

    For each language there is a page that is left alone and one that is walked through, and so for each width.
    """
    site, opened, problems = serve("kept"), [], []
    for (language, locale), width in itertools.product((("zh", "zh-CN"), ("en", "en-US")), (1280, 360)):
        page = visitor(site, language=locale, width=width, fresh=True).page
        tabs = _TABS if (language == "zh") == (width == 360) else ()
        opened.append(_Fresh(page, _catalogue(language), f"{language} {width}", tabs, time.monotonic()))
        problems += opened[-1].problems(_MOMENTS_S[0])
    for fresh in opened:
        problems += fresh.problems(_MOMENTS_S[1])
    assert problems == []
