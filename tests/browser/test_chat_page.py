"""The Chat page as people use it, in a real browser."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visit, Visitor, until
from chat_steps import ANSWERS, BOX, STATUS, open_chat, say, written

pytestmark = pytest.mark.browser


def test_a_conversation_of_two_rounds(chat: Visit) -> None:
    """Both answers stand on the page, and the second question took the first round along."""
    say(chat, "What is AI?")
    say(chat, "AI是什么？")
    written(chat, "AI是人工智能的缩写，它让机器学会思考。")
    assert chat.page.locator(ANSWERS).first.inner_text().strip() == "AI is the study of machines that learn."
    assert chat.page.locator(ANSWERS).count() == 2
    assert chat.site.state()["messages"][-1][0] == "What is AI?"
    assert chat.page.input_value(BOX) == ""
    assert "Context:" in chat.page.inner_text("#cg-context")


def test_a_system_prompt_where_the_family_reads_one(serve: Serve, visitor: Visitor) -> None:
    """ChatGLM3 has a box for it, and gets it before the question; others have none."""
    site = serve("tiny")
    visit = open_chat(visitor(site, fresh=True))
    visit.page.click("#cg-chat-settings > button")
    visit.page.fill("#cg-chat-system textarea", "Be brief.")
    say(visit, "What is AI?")
    assert site.state()["messages"][-1] == ["Be brief.", "What is AI?"]
    other = open_chat(visitor(serve(), fresh=True))
    say(other, "What is AI?")  # by now the page has learnt what the model reads
    assert other.page.locator("#cg-chat-system").count() == 0


def test_stop_keeps_the_text_and_the_conversation_goes_on(chat: Visit) -> None:
    """After a stop the next question is answered."""
    say(chat, "slow", answered=False)
    written(chat, "word2")
    chat.page.keyboard.press("Escape")
    chat.page.locator(f"{STATUS}[data-phase=done]", has_text="Stopped").wait_for()
    assert chat.site.ticket()["cancelled"]
    say(chat, "What is AI?")
    written(chat, "machines that learn")


def test_code_formulas_and_html_are_shown_safely_and_locally(chat: Visit) -> None:
    """Code is highlighted, a formula is set, HTML is text, nothing is fetched from elsewhere."""
    say(chat, "code please")
    say(chat, "latex please")
    say(chat, "html please")
    written(chat, "<b>not bold</b>")
    chat.page.locator("#cg-chat pre code span").first.wait_for()
    until(lambda: chat.page.locator("#cg-chat .katex").count() == 2)
    assert chat.page.locator(f"{ANSWERS} img").count() == 0
    assert chat.page.evaluate("window.hacked") is None
    assert (chat.foreign, chat.faults) == ([], [])


def test_keys_break_lines_and_respect_an_input_method(chat: Visit) -> None:
    """Shift+Enter breaks the line; Enter while composing sends nothing."""
    before = len(chat.site.state()["tickets"])
    chat.page.fill(BOX, "one")
    chat.page.press(BOX, "Shift+Enter")
    chat.page.keyboard.type("two")
    chat.page.evaluate(
        "document.querySelector('#cg-chat-box textarea').dispatchEvent(new KeyboardEvent('keydown',"
        "{key:'Enter',isComposing:true,bubbles:true,cancelable:true}))"
    )
    chat.page.wait_for_timeout(300)
    assert chat.page.input_value(BOX) == "one\ntwo"
    assert len(chat.site.state()["tickets"]) == before


def test_changing_the_tab_stops_no_answer_and_a_phone_fits(serve: Serve, visitor: Visitor) -> None:
    """The answer goes on while another tab is open; at 360 pixels nothing hangs over."""
    site = serve()
    visit = open_chat(visitor(site, language="zh-CN", width=360, fresh=True))
    say(visit, "slow", answered=False)
    written(visit, "word1")
    visit.tab(1, "#cg-prompt")
    made = site.ticket()["made"]
    until(lambda: site.ticket()["made"] > made + 10)
    open_chat(visit)
    visit.page.click("[data-action=drawer]")
    visit.page.click("#cg-chat-clear")
    visit.page.locator("#cg-chat-side").wait_for(state="hidden")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
