"""The Chat page as people use it, in a real browser."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visitor, until
from chat_steps import ANSWERS, BOX, STATUS, open_chat, say, written

pytestmark = pytest.mark.browser


def test_a_conversation_of_two_rounds(serve: Serve, visitor: Visitor) -> None:
    """Both answers stand on the page, and the second question took the first round along."""
    site = serve()
    visit = open_chat(visitor(site))
    say(visit, "What is AI?")
    say(visit, "AI是什么？")
    written(visit, "AI是人工智能的缩写，它让机器学会思考。")
    assert visit.page.locator(ANSWERS).first.inner_text().strip() == "AI is the study of machines that learn."
    assert visit.page.locator(ANSWERS).count() == 2
    assert site.state()["messages"][-1][0] == "What is AI?"
    assert visit.page.input_value(BOX) == ""
    assert "Context:" in visit.page.inner_text("#cg-context")


def test_a_system_prompt_where_the_family_reads_one(serve: Serve, visitor: Visitor) -> None:
    """ChatGLM3 has a box for it, and gets it before the question; others have none."""
    site = serve("tiny")
    visit = open_chat(visitor(site))
    visit.page.fill("#cg-chat-system textarea", "Be brief.")
    say(visit, "What is AI?")
    assert site.state()["messages"][-1] == ["Be brief.", "What is AI?"]
    other = open_chat(visitor(serve()))
    say(other, "What is AI?")  # by now the page has learnt what the model reads
    assert other.page.locator("#cg-chat-system").count() == 0


def test_stop_keeps_the_text_and_the_conversation_goes_on(serve: Serve, visitor: Visitor) -> None:
    """After a stop the next question is answered."""
    site = serve()
    visit = open_chat(visitor(site))
    say(visit, "slow", answered=False)
    written(visit, "word2")
    visit.page.keyboard.press("Escape")
    visit.page.locator(f"{STATUS}[data-phase=done]", has_text="Stopped").wait_for()
    assert site.ticket()["cancelled"]
    say(visit, "What is AI?")
    written(visit, "machines that learn")


def test_code_formulas_and_html_are_shown_safely_and_locally(serve: Serve, visitor: Visitor) -> None:
    """Code is highlighted, a formula is set, HTML is text, nothing is fetched from elsewhere."""
    visit = open_chat(visitor(serve()))
    say(visit, "code please")
    say(visit, "latex please")
    say(visit, "html please")
    written(visit, "<b>not bold</b>")
    visit.page.locator("#cg-chat pre code span").first.wait_for()
    until(lambda: visit.page.locator("#cg-chat .katex").count() == 2)
    assert visit.page.locator(f"{ANSWERS} img").count() == 0
    assert visit.page.evaluate("window.hacked") is None
    assert (visit.foreign, visit.faults) == ([], [])


def test_keys_break_lines_and_respect_an_input_method(serve: Serve, visitor: Visitor) -> None:
    """Shift+Enter breaks the line; Enter while composing sends nothing."""
    site = serve()
    visit = open_chat(visitor(site))
    before = len(site.state()["tickets"])
    visit.page.fill(BOX, "one")
    visit.page.press(BOX, "Shift+Enter")
    visit.page.keyboard.type("two")
    visit.page.evaluate(
        "document.querySelector('#cg-chat-box textarea').dispatchEvent(new KeyboardEvent('keydown',"
        "{key:'Enter',isComposing:true,bubbles:true,cancelable:true}))"
    )
    visit.page.wait_for_timeout(300)
    assert visit.page.input_value(BOX) == "one\ntwo"
    assert len(site.state()["tickets"]) == before


def test_changing_the_tab_stops_no_answer_and_a_phone_fits(serve: Serve, visitor: Visitor) -> None:
    """The answer goes on while another tab is open; at 360 pixels nothing hangs over."""
    site = serve()
    visit = open_chat(visitor(site, language="zh-CN", width=360))
    say(visit, "slow", answered=False)
    written(visit, "word1")
    visit.tab(0, "#cg-prompt")
    made = site.ticket()["made"]
    until(lambda: site.ticket()["made"] > made + 10)
    open_chat(visit)
    visit.page.click("#cg-chat-clear")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
