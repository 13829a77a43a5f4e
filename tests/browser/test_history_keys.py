"""The list of conversations without a mouse, and a page that keeps none, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_helpers import Serve, Visit, Visitor
from chat_steps import answers, open_chat, say, titles

pytestmark = pytest.mark.browser


def _focused(visit: Visit, selector: str) -> None:
    """Wait until the focus has come to the element."""
    visit.page.wait_for_function("selector => document.activeElement.matches(selector)", arg=selector)


def _two_conversations(visit: Visit) -> None:
    open_chat(visit)
    say(visit, "What is AI?")
    visit.page.click("#cg-chat-clear")
    answers(visit, 0)
    say(visit, "AI是什么？")
    titles(visit, "AI是什么？", "What is AI?")


def test_renaming_by_keyboard_gives_the_focus_back(serve: Serve, visitor: Visitor) -> None:
    """Esc leaves the title as it was; Enter takes the new one; both lead back to the row's button."""
    visit = visitor(serve("kept"))
    _two_conversations(visit)
    button = "#cg-history .cg-row[aria-current] [data-history=rename]"
    visit.reach(button)
    visit.page.keyboard.press("Enter")
    _focused(visit, "dialog input")
    visit.page.keyboard.type("not this")
    visit.page.keyboard.press("Escape")
    _focused(visit, button)
    titles(visit, "AI是什么？", "What is AI?")
    visit.page.keyboard.press("Enter")
    _focused(visit, "dialog input")
    visit.page.keyboard.type("Renamed 改名")
    visit.page.keyboard.press("Enter")
    titles(visit, "Renamed 改名", "What is AI?")
    _focused(visit, button)
    assert visit.page.locator("dialog").count() == 0
    assert visit.faults == []


def test_deleting_by_keyboard_leads_to_the_next_row(serve: Serve, visitor: Visitor) -> None:
    """The question begins at "no"; after "yes" the focus is on the next row, after the last one in the search."""
    visit = visitor(serve("kept"))
    _two_conversations(visit)
    button = "#cg-history .cg-row [data-history=delete]"
    visit.reach(button)
    visit.page.keyboard.press("Enter")
    _focused(visit, "dialog button:not(.cg-yes)")
    visit.page.keyboard.press("Enter")
    _focused(visit, button)
    titles(visit, "AI是什么？", "What is AI?")
    visit.page.keyboard.press("Enter")
    visit.reach("dialog .cg-yes")
    visit.page.keyboard.press("Enter")
    titles(visit, "What is AI?")
    _focused(visit, "#cg-history .cg-row .cg-open")
    visit.reach(button)
    visit.page.keyboard.press("Enter")
    visit.reach("dialog .cg-yes")
    visit.page.keyboard.press("Enter")
    titles(visit)
    _focused(visit, "#cg-history-search :is(textarea, input)")
    assert visit.faults == []


def test_without_history_nothing_is_kept_and_the_page_says_so(chat: Visit) -> None:
    """No list, no search, no file, no cookie that stays; a reload shows an empty conversation."""
    assert "Conversations are not kept" in chat.page.inner_text("#cg-history")
    assert chat.page.locator("#cg-history-search").count() == 0
    assert chat.page.locator("#cg-history button, #cg-history a, #cg-history input").count() == 0
    say(chat, "What is AI?")
    assert chat.page.locator("#cg-history .cg-row").count() == 0
    assert [one["expires"] for one in chat.page.context.cookies() if "visitor" in one["name"]] == [-1]
    chat.page.reload()
    say(open_chat(chat), "once more")
    answers(chat, 1)
    assert chat.site.state()["messages"][-1] == ["once more"]
    assert list(Path(chat.site.environment["SCRIPTED_DATA"]).iterdir()) == []
    assert (chat.foreign, chat.faults) == ([], [])
