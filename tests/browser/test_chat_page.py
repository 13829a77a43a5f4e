"""The Chat page as people use it, in a real browser."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visit, Visitor, until
from chat_steps import ANSWERS, BOX, STATUS, open_chat, say, written

pytestmark = pytest.mark.browser


def test_a_conversation_and_its_keys(chat: Visit) -> None:
    """Both answers stand on the page, and the second question took the first round along.

    Shift+Enter breaks the line; Enter while composing sends nothing; after a stop the next question is answered.
    """
    say(chat, "What is AI?")
    say(chat, "AI是什么？")
    written(chat, "AI是人工智能的缩写，它让机器学会思考。")
    assert chat.page.locator(ANSWERS).first.inner_text().strip() == "AI is the study of machines that learn."
    assert chat.page.locator(ANSWERS).count() == 2
    assert chat.site.state()["messages"][-1][0] == "What is AI?"
    assert chat.page.input_value(BOX) == ""
    assert "Context:" in chat.page.inner_text("#cg-context")
    assert chat.page.locator("#cg-chat-system").count() == 0  # by now the page has learnt what the model reads
    before = len(chat.site.state()["tickets"])
    chat.page.fill(BOX, "one")
    chat.page.press(BOX, "Shift+Enter")
    chat.page.keyboard.type("two")
    chat.page.evaluate(
        "document.querySelector('#cg-chat-box textarea').dispatchEvent(new KeyboardEvent('keydown',"
        "{key:'Enter',isComposing:true,bubbles:true,cancelable:true}))"
    )
    assert chat.page.input_value(BOX) == "one\ntwo"
    say(chat, "slow", answered=False)
    written(chat, "word2")
    assert chat.page.input_value(BOX) == ""
    chat.page.keyboard.press("Escape")
    chat.page.locator(f"{STATUS}[data-phase=done]", has_text="Stopped").wait_for()
    assert chat.site.ticket()["cancelled"]
    assert len(chat.site.state()["tickets"]) == before + 1
    say(chat, "What is AI?")
    written(chat, "machines that learn")


def test_a_system_prompt_where_the_family_reads_one(serve: Serve, visitor: Visitor) -> None:
    """ChatGLM3 has a box for it, and gets it before the question."""
    site = serve("tiny")
    visit = open_chat(visitor(site, fresh=True))
    visit.page.click("#cg-chat-settings > button")
    visit.page.fill("#cg-chat-system textarea", "Be brief.")
    say(visit, "What is AI?")
    assert site.state()["messages"][-1] == ["Be brief.", "What is AI?"]


def test_code_formulas_and_html_are_shown_safely_and_locally(chat: Visit) -> None:
    """Code is highlighted, a formula is set, HTML is text, nothing is run and nothing fetched from elsewhere."""
    _say_hostile(chat)
    say(chat, "code please")
    say(chat, "latex please")
    until(lambda: chat.page.locator(ANSWERS).last.locator(".katex").count() == 2)
    say(chat, "html please")
    written(chat, "<b>not bold</b>")
    chat.page.locator("#cg-chat pre code span").first.wait_for()
    assert chat.page.locator(ANSWERS).last.locator("img").count() == 0
    assert chat.page.evaluate("window.hacked") is None
    assert (chat.foreign, chat.faults) == ([], [])


def _say_hostile(chat: Visit) -> None:
    """Scripts, handlers, styles, frames, pictures and links, in prose, code, formulas and the question."""
    say(chat, "hostile <img src=x onerror=window.hacked=1>")
    shown = chat.page.locator(ANSWERS).last
    until(lambda: "onerror=window.hacked=7" in shown.inner_text())
    assert "<svg onload=window.hacked=2>" in shown.inner_text()
    assert "<img src=x onerror=window.hacked=1>" in chat.page.locator("#cg-chat .user.message").last.inner_text()
    assert shown.locator("script, iframe, style, object, embed, form, svg[onload], img[onerror]").count() == 0
    links = shown.locator("a").evaluate_all("all => all.map(one => one.getAttribute('href') || '')")
    assert [link for link in links if link.lower().strip().startswith(("javascript", "data", "vbscript"))] == []


def test_changing_the_tab_stops_no_answer_and_a_phone_fits(serve: Serve, visitor: Visitor) -> None:
    """The answer goes on while another tab is open; at 360 pixels nothing hangs over, Escape closes a drawer only."""
    site = serve()
    visit = open_chat(visitor(site, language="zh-CN", width=360, fresh=True))
    say(visit, "slow", answered=False)
    written(visit, "word1")
    visit.tab(1, "#cg-prompt")
    made = site.ticket()["made"]
    until(lambda: site.ticket()["made"] > made + 10)
    open_chat(visit)
    visit.page.click("[data-action=drawer]")
    visit.page.locator("#cg-chat-side.cg-shown").wait_for()
    visit.page.keyboard.press("Escape")
    visit.page.locator("#cg-chat-side").wait_for(state="hidden")
    assert visit.page.is_enabled("#cg-chat-stop")
    visit.page.click("[data-action=drawer]")
    assert not site.ticket()["cancelled"]
    visit.page.click("#cg-chat-clear")
    visit.page.locator("#cg-chat-side").wait_for(state="hidden")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
