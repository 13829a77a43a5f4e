"""The list of conversations without a mouse, and a page that keeps none, in a real browser."""

from __future__ import annotations

import pytest
from browser_helpers import Visit
from chat_steps import ANSWERS, BOX, STATUS, answers, open_chat, say, titles

pytestmark = pytest.mark.browser


def _focused(visit: Visit, selector: str) -> None:
    """Wait until the focus has come to the element."""
    visit.page.wait_for_function("selector => document.activeElement.matches(selector)", arg=selector)


@pytest.fixture
def two(kept: Visit) -> Visit:
    """A page with two conversations."""
    say(kept, "What is AI?")
    kept.page.click("#cg-chat-clear")
    answers(kept, 0)
    say(kept, "AI是什么？")
    titles(kept, "AI是什么？", "What is AI?")
    return kept


def test_the_list_and_a_conversation_are_led_with_the_keyboard_alone(two: Visit) -> None:
    """No mouse is needed."""
    _rename(two)
    _lead(two)
    _delete(two)
    assert two.faults == []


def _rename(two: Visit) -> None:
    """Esc leaves the title as it was; Enter takes the new one; both lead back to the row's button."""
    button = "#cg-history .cg-row[aria-current] [data-history=rename]"
    two.reach(button)
    two.page.keyboard.press("Enter")
    _focused(two, "dialog input")
    two.page.keyboard.type("not this")
    two.page.keyboard.press("Escape")
    _focused(two, button)
    titles(two, "AI是什么？", "What is AI?")
    two.page.keyboard.press("Enter")
    _focused(two, "dialog input")
    two.page.keyboard.type("Renamed 改名")
    two.page.keyboard.press("Enter")
    titles(two, "Renamed 改名", "What is AI?")
    _focused(two, button)
    assert two.page.locator("dialog").count() == 0


def _lead(two: Visit) -> None:
    """Send, stop, a new one, copy, answer again, settings, another page and back, an old one."""
    page = two.page
    two.reach("#cg-chat-clear")
    page.keyboard.press("Enter")
    answers(two, 0)
    two.reach(BOX)
    page.keyboard.type("slow")
    page.keyboard.press("Enter")
    page.locator(f"{STATUS}[data-phase=writing]").wait_for()
    page.keyboard.press("Escape")
    page.locator(STATUS, has_text="Stopped").wait_for()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    two.reach("#cg-chat [aria-label=Retry]")  # the way there leads over the buttons of the answer
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("getComputedStyle(document.activeElement.closest('[class*=message-buttons]')).opacity") == "1"
    page.keyboard.press("Enter")
    page.wait_for_function("navigator.clipboard.readText().then((text) => text.startsWith('word0'))")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(f"{STATUS}[data-phase=writing]").wait_for()
    two.reach("#cg-chat-stop")
    page.keyboard.press("Enter")
    page.locator(STATUS, has_text="Stopped").wait_for()
    two.reach("#cg-chat-settings")
    page.keyboard.press("Enter")
    two.reach("#cg-chat-max-new-tokens")
    two.reach("[role=tab]")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    page.locator("#cg-tab-batch").wait_for()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    two.reach("#cg-history .cg-row:nth-child(2) .cg-open")
    page.keyboard.press("Enter")
    page.locator(ANSWERS, has_text="AI").first.wait_for()
    answers(two, 1)


def _delete(two: Visit) -> None:
    """The question begins at "no"; after "yes" the focus is on the next row, after the last one in the search."""
    button = "#cg-history .cg-row [data-history=delete]"
    two.reach(button)
    two.page.keyboard.press("Enter")
    _focused(two, "dialog button:not(.cg-yes)")
    two.page.keyboard.press("Enter")
    _focused(two, button)
    titles(two, "slow", "Renamed 改名", "What is AI?")
    two.page.keyboard.press("Enter")
    two.reach("dialog .cg-yes")
    two.page.keyboard.press("Enter")
    left = ["Renamed 改名", "What is AI?"]
    titles(two, *left)
    while left:
        _focused(two, "#cg-history .cg-row .cg-open")
        two.reach(button)
        two.page.keyboard.press("Enter")
        two.reach("dialog .cg-yes")
        two.page.keyboard.press("Enter")
        titles(two, *left[1:])
        left = left[1:]
    _focused(two, "#cg-history-search :is(textarea, input)")


def test_without_history_nothing_is_kept_and_the_page_says_so(chat: Visit) -> None:
    """No list, no search, no file, no cookie that stays; after a reload the page still knows its last answer."""
    assert "Conversations are not kept" in chat.page.inner_text("#cg-history")
    assert chat.page.locator("#cg-history-search").count() == 0
    assert chat.page.locator("#cg-history button, #cg-history a, #cg-history input").count() == 0
    say(chat, "What is AI?")
    assert chat.page.locator("#cg-history .cg-row").count() == 0
    assert [one["expires"] for one in chat.page.context.cookies() if "visitor" in one["name"]] == [-1]
    chat.page.reload()
    answers(open_chat(chat), 1)
    say(chat, "once more")
    answers(chat, 2)
    assert [text[:10] for text in chat.site.state()["messages"][-1]] == ["What is AI", "AI is the ", "once more"]
    kept = {path.name for path in chat.site.data.iterdir()}
    assert kept <= {"batches"}  # what was given to the Batch page on purpose
    assert (chat.foreign, chat.faults) == ([], [])
