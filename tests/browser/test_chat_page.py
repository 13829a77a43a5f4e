"""The Chat page as people use it, in a real browser."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visit, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]


def _open(visit: Visit) -> Visit:
    visit.page.get_by_role("tab").nth(1).click()
    visit.page.locator("#cg-chat-box textarea").wait_for(timeout=15_000)
    return visit


def _say(visit: Visit, text: str, *, answered: bool = True) -> None:
    rounds = visit.page.locator("#cg-chat .bot.message").count()
    visit.page.fill("#cg-chat-box textarea", text)
    visit.page.press("#cg-chat-box textarea", "Enter")
    if answered:
        visit.page.locator("#cg-chat .bot.message").nth(rounds).wait_for(timeout=15_000)
        visit.page.locator("#cg-chat-status .cg-status[data-phase=done]").wait_for(timeout=15_000)


def test_a_conversation_of_two_rounds(serve: Serve, visitor: Visitor) -> None:
    """Both answers stand on the page, and the second question took the first round along."""
    site = serve()
    visit = _open(visitor(site))
    _say(visit, "What is AI?")
    _say(visit, "AI是什么？")
    answers = visit.page.locator("#cg-chat .bot.message").all_inner_texts()
    assert [answer.strip() for answer in answers] == [
        "AI is the study of machines that learn.",
        "AI是人工智能的缩写，它让机器学会思考。",
    ]
    assert visit.page.input_value("#cg-chat-box textarea") == ""
    assert "Context:" in visit.page.inner_text("#cg-context")


def test_stop_keeps_the_text_and_the_conversation_goes_on(serve: Serve, visitor: Visitor) -> None:
    """After a stop the next question is answered."""
    site = serve()
    visit = _open(visitor(site))
    _say(visit, "slow", answered=False)
    visit.page.locator("#cg-chat .bot.message", has_text="word2").wait_for(timeout=15_000)
    visit.page.keyboard.press("Escape")
    visit.page.locator("#cg-chat-status .cg-status[data-phase=done]", has_text="Stopped").wait_for(timeout=5_000)
    assert site.state()["tickets"][-1]["cancelled"]
    _say(visit, "What is AI?")
    assert "machines that learn" in visit.page.locator("#cg-chat .bot.message").last.inner_text()


def test_code_formulas_and_html_are_shown_safely_and_locally(serve: Serve, visitor: Visitor) -> None:
    """Code is highlighted, a formula is set, HTML is text, nothing is fetched from elsewhere."""
    visit = _open(visitor(serve()))
    _say(visit, "code please")
    _say(visit, "latex please")
    _say(visit, "html please")
    assert visit.page.locator("#cg-chat pre code span").count() > 0
    assert visit.page.locator("#cg-chat .katex").count() == 2
    assert "<b>not bold</b>" in visit.page.locator("#cg-chat .bot.message").last.inner_text()
    assert visit.page.locator("#cg-chat .bot.message img").count() == 0
    assert visit.page.evaluate("window.hacked") is None
    assert (visit.foreign, visit.faults) == ([], [])


def test_keys_break_lines_and_respect_an_input_method(serve: Serve, visitor: Visitor) -> None:
    """Shift+Enter breaks the line; Enter while composing sends nothing."""
    site = serve()
    visit = _open(visitor(site))
    before = len(site.state()["tickets"])
    visit.page.fill("#cg-chat-box textarea", "one")
    visit.page.press("#cg-chat-box textarea", "Shift+Enter")
    visit.page.keyboard.type("two")
    visit.page.evaluate(
        "document.querySelector('#cg-chat-box textarea').dispatchEvent(new KeyboardEvent('keydown',"
        "{key:'Enter',isComposing:true,bubbles:true,cancelable:true}))"
    )
    visit.page.wait_for_timeout(400)
    assert visit.page.input_value("#cg-chat-box textarea") == "one\ntwo"
    assert len(site.state()["tickets"]) == before


def test_regenerate_and_undo(serve: Serve, visitor: Visitor) -> None:
    """Another answer replaces the last one; undo puts the question back into the box."""
    site = serve()
    visit = _open(visitor(site))
    _say(visit, "What is AI?")
    before = len(site.state()["tickets"])
    visit.page.get_by_label("Retry").last.click()
    visit.page.wait_for_timeout(300)
    visit.page.locator("#cg-chat-status .cg-status[data-phase=done]").wait_for(timeout=15_000)
    assert len(site.state()["tickets"]) == before + 1
    assert visit.page.locator("#cg-chat .bot.message").count() == 1
    visit.page.get_by_label("Undo").last.click()
    visit.page.locator("#cg-chat .bot.message").wait_for(state="detached", timeout=10_000)
    assert visit.page.input_value("#cg-chat-box textarea") == "What is AI?"


def test_changing_the_tab_stops_no_answer_and_a_phone_fits(serve: Serve, visitor: Visitor) -> None:
    """The answer goes on while another tab is open; at 360 pixels nothing hangs over."""
    site = serve()
    visit = _open(visitor(site, language="zh-CN", width=360))
    _say(visit, "slow", answered=False)
    visit.page.locator("#cg-chat .bot.message", has_text="word1").wait_for(timeout=15_000)
    visit.page.get_by_role("tab").nth(0).click()
    made = site.state()["tickets"][-1]["made"]
    visit.page.wait_for_timeout(800)
    assert site.state()["tickets"][-1]["made"] > made
    visit.page.get_by_role("tab").nth(1).click()
    visit.page.click("#cg-chat-clear")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
