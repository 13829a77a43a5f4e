"""Going back in a conversation, in a real browser: edit, regenerate, undo, delete, and what no longer fits."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visit, Visitor, until
from chat_steps import ANSWERS, BOX, answers, ended, open_chat, say, written

pytestmark = pytest.mark.browser

_MINE = "#cg-chat .user.message"


def test_an_edited_message_goes_on_from_there(kept: Visit) -> None:
    """What followed is gone, on the page, for the model and on the disk; HTML comes back as typed."""
    say(kept, "Is <b>this</b> bold?")
    say(kept, "second")
    kept.page.locator(_MINE).nth(0).hover()
    kept.page.get_by_label("Edit").first.click()
    area = kept.page.locator("#cg-chat textarea")
    area.wait_for()
    area.fill("What is AI?")
    kept.page.get_by_label("Submit").first.click()
    written(kept, "machines that learn")
    ended(kept)
    assert kept.page.locator(ANSWERS).count() == 1
    assert kept.page.locator(_MINE).inner_text().strip() == "What is AI?"
    assert kept.site.state()["messages"][-1] == ["What is AI?"]
    kept.page.reload()
    open_chat(kept)
    written(kept, "machines that learn")
    assert kept.page.locator(_MINE).count() == 1
    assert (kept.foreign, kept.faults) == ([], [])


def test_html_in_a_question_is_edited_as_it_was_typed(chat: Visit) -> None:
    """An unchanged edit sends the same words again."""
    say(chat, "Is <b>this</b> &lt; bold?")
    before = len(chat.site.state()["messages"])
    chat.page.locator(_MINE).first.hover()
    chat.page.get_by_label("Edit").first.click()
    chat.page.locator("#cg-chat textarea").wait_for()
    chat.page.get_by_label("Submit").first.click()
    until(lambda: len(chat.site.state()["messages"]) > before)
    assert chat.site.state()["messages"][-1] == ["Is <b>this</b> &lt; bold?"]
    assert "<b>this</b>" in chat.page.locator(_MINE).inner_text()


def test_regenerate_and_undo_after_two_rounds(kept: Visit) -> None:
    """The last answer is made again; undo takes the last question back, also in mid-answer, and stays undone."""
    say(kept, "What is AI?")
    say(kept, "AI是什么？")
    before = len(kept.site.state()["messages"])
    kept.page.get_by_label("Retry").last.click()
    until(lambda: len(kept.site.state()["messages"]) == before + 1 and kept.site.ticket()["ended"])
    assert kept.site.state()["messages"][-1][-1] == "AI是什么？"
    answers(kept, 2)
    ended(kept)
    kept.page.get_by_label("Undo").last.click()
    answers(kept, 1)
    assert kept.page.input_value(BOX) == "AI是什么？"
    say(kept, "slow", answered=False)
    written(kept, "word3 ")
    kept.page.get_by_label("Undo").last.click()
    answers(kept, 1)
    until(lambda: kept.site.ticket()["ended"])
    kept.page.wait_for_timeout(800)
    assert kept.page.locator(ANSWERS).count() == 1
    assert kept.page.input_value(BOX) == "slow"
    assert kept.page.is_enabled("#cg-chat-send")
    kept.page.reload()
    open_chat(kept)
    written(kept, "machines that learn")
    assert kept.page.locator(ANSWERS).count() == 1


def test_a_new_conversation_begins_in_mid_answer(kept: Visit) -> None:
    """The page stays empty, the old one is in the list with its words; opening it shows them."""
    say(kept, "slow", answered=False)
    written(kept, "word3 ")
    kept.page.click("#cg-chat-clear")
    answers(kept, 0)
    until(lambda: kept.site.ticket()["ended"])
    kept.page.wait_for_timeout(800)
    assert kept.page.locator(ANSWERS).count() == 0
    kept.page.locator("#cg-history [data-history=open]").click()
    written(kept, "word3 ")
    assert kept.page.locator("#cg-chat .cg-cut").count() == 1


def test_rounds_that_no_longer_fit_are_left_out_and_said(serve: Serve, visitor: Visitor) -> None:
    """The bar fills, then the page says how many rounds the model did not see; they stay on the page."""
    site = serve("tiny")
    visit = open_chat(visitor(site))
    visit.limit(16, "#cg-chat-max-new-tokens")
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
