"""Going back in a conversation, in a real browser: edit, regenerate, undo, delete, and what no longer fits."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visitor, until
from chat_steps import ANSWERS, BOX, answers, ended, max_tokens, open_chat, say, written

pytestmark = pytest.mark.browser

_MINE = "#cg-chat .user.message"


def test_an_edited_message_goes_on_from_there(serve: Serve, visitor: Visitor) -> None:
    """What followed is gone, on the page, for the model and on the disk; HTML comes back as typed."""
    site = serve("kept")
    visit = open_chat(visitor(site))
    say(visit, "Is <b>this</b> bold?")
    say(visit, "second")
    visit.page.locator(_MINE).nth(0).hover()
    visit.page.get_by_label("Edit").first.click()
    area = visit.page.locator("#cg-chat textarea")
    area.wait_for()
    area.fill("What is AI?")
    visit.page.get_by_label("Submit").first.click()
    written(visit, "machines that learn")
    ended(visit)
    assert visit.page.locator(ANSWERS).count() == 1
    assert visit.page.locator(_MINE).inner_text().strip() == "What is AI?"
    assert site.state()["messages"][-1] == ["What is AI?"]
    visit.page.reload()
    open_chat(visit)
    written(visit, "machines that learn")
    assert visit.page.locator(_MINE).count() == 1
    assert (visit.foreign, visit.faults) == ([], [])


def test_html_in_a_question_is_edited_as_it_was_typed(serve: Serve, visitor: Visitor) -> None:
    """An unchanged edit sends the same words again."""
    site = serve()
    visit = open_chat(visitor(site))
    say(visit, "Is <b>this</b> &lt; bold?")
    before = len(site.state()["messages"])
    visit.page.locator(_MINE).first.hover()
    visit.page.get_by_label("Edit").first.click()
    visit.page.locator("#cg-chat textarea").wait_for()
    visit.page.get_by_label("Submit").first.click()
    until(lambda: len(site.state()["messages"]) > before)
    assert site.state()["messages"][-1] == ["Is <b>this</b> &lt; bold?"]
    assert "<b>this</b>" in visit.page.locator(_MINE).inner_text()


def test_regenerate_and_undo_after_two_rounds(serve: Serve, visitor: Visitor) -> None:
    """The last answer is made again; undo takes the last question back, also in mid-answer, and stays undone."""
    site = serve("kept")
    visit = open_chat(visitor(site))
    say(visit, "What is AI?")
    say(visit, "AI是什么？")
    before = len(site.state()["messages"])
    visit.page.get_by_label("Retry").last.click()
    until(lambda: len(site.state()["messages"]) == before + 1 and site.ticket()["ended"])
    assert site.state()["messages"][-1][-1] == "AI是什么？"
    answers(visit, 2)
    ended(visit)
    visit.page.get_by_label("Undo").last.click()
    answers(visit, 1)
    assert visit.page.input_value(BOX) == "AI是什么？"
    say(visit, "slow", answered=False)
    written(visit, "word3 ")
    visit.page.get_by_label("Undo").last.click()
    answers(visit, 1)
    until(lambda: site.ticket()["ended"])
    visit.page.wait_for_timeout(800)
    assert visit.page.locator(ANSWERS).count() == 1
    assert visit.page.input_value(BOX) == "slow"
    assert visit.page.is_enabled("#cg-chat-send")
    visit.page.reload()
    open_chat(visit)
    written(visit, "machines that learn")
    assert visit.page.locator(ANSWERS).count() == 1


def test_a_new_conversation_begins_in_mid_answer(serve: Serve, visitor: Visitor) -> None:
    """The page stays empty, the old one is in the list with its words; opening it shows them."""
    site = serve("kept")
    visit = open_chat(visitor(site))
    say(visit, "slow", answered=False)
    written(visit, "word3 ")
    visit.page.click("#cg-chat-clear")
    answers(visit, 0)
    until(lambda: site.ticket()["ended"])
    visit.page.wait_for_timeout(800)
    assert visit.page.locator(ANSWERS).count() == 0
    visit.page.locator("#cg-history [data-history=open]").click()
    written(visit, "word3 ")
    assert visit.page.locator("#cg-chat .cg-cut").count() == 1


def test_rounds_that_no_longer_fit_are_left_out_and_said(serve: Serve, visitor: Visitor) -> None:
    """The bar fills, then the page says how many rounds the model did not see; they stay on the page."""
    site = serve("tiny")
    visit = open_chat(visitor(site))
    max_tokens(visit, 16)
    say(visit, "What is AI?")
    meter = visit.page.locator("#cg-context [role=meter]")
    used = int(meter.get_attribute("aria-valuenow") or 0)
    assert 0 < used < 120
    assert meter.get_attribute("aria-valuemax") == "120"
    assert visit.page.locator("#cg-context .cg-demo").count() == 0
    say(visit, "What is AI, please?")
    assert int(meter.get_attribute("aria-valuenow") or 0) > used
    say(visit, "And what is AI again?")
    notice = visit.page.locator("#cg-context .cg-demo")
    assert "left out of this answer (1)" in notice.inner_text()
    assert notice.is_visible()
    assert site.state()["messages"][-1][0] == "What is AI, please?"
    assert visit.page.locator(_MINE).count() == 3
