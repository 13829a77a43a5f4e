"""Going back in a conversation, in a real browser: edit, regenerate, undo, delete, and what no longer fits."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visit, Visitor, until
from chat_steps import ANSWERS, BOX, answers, ended, open_chat, say, written

pytestmark = pytest.mark.browser

_MINE = "#cg-chat .user.message"


_ROWS = "#cg-chat .message-row"


def _rows(visit: Visit, *expected: str) -> None:
    """Wait until the rows hold these texts, with "2/3" behind those that have versions."""
    visit.page.wait_for_function(
        f"""rows => JSON.stringify([...document.querySelectorAll("{_ROWS}")].map((row) => {{
            const found = row.querySelector(".cg-versions span");
            return row.querySelector(".message-content").innerText.trim() + (found ? " " + found.innerText : "");
        }})) === JSON.stringify(rows)""",
        arg=list(expected),
    )


def test_versions_stay_beside_each_other(kept: Visit) -> None:
    """A question edited, an answer made again, an answer edited: each leads back, by keyboard, also after a reload.

    The model is sent what is shown and nothing else.
    """
    page, learn, script = kept.page, "AI is the study of machines that learn.", "An answer from the script."
    say(kept, "What is AI?")
    say(kept, "second")
    page.locator(_MINE).nth(0).hover()
    page.get_by_label("Edit", exact=True).first.click()
    page.locator("#cg-chat textarea").fill("What is AI, please?")
    page.get_by_label("Submit").first.click()
    _rows(kept, "What is AI, please? 2/2", learn)
    ended(kept)
    assert kept.site.state()["messages"][-1] == ["What is AI, please?"]
    page.get_by_label("Version before").click()
    _rows(kept, "What is AI? 1/2", learn, "second", script)
    page.get_by_label("Retry").click()
    _rows(kept, "What is AI? 1/2", learn, "second", f"{script} 2/2")
    assert kept.site.state()["messages"][-1] == ["What is AI?", learn, "second"]
    page.get_by_label("Edit the answer").first.click()
    page.locator("dialog textarea").fill("Well, ")
    page.click("dialog .cg-yes")
    _rows(kept, "What is AI? 1/2", f"Well, {script} 2/2")
    assert kept.site.state()["messages"][-1] == ["What is AI?", "Well, "]
    ended(kept)
    page.press(BOX, "Enter")
    page.locator("#cg-chat-status", has_text="Type a prompt first").wait_for()
    _rows(kept, "What is AI? 1/2", f"Well, {script} 2/2")
    page.reload()
    open_chat(kept)
    _rows(kept, "What is AI? 1/2", f"Well, {script} 2/2")
    page.locator("[data-history=before]").last.focus()
    page.keyboard.press("Enter")
    _rows(kept, "What is AI? 1/2", f"{learn} 1/2", "second", f"{script} 2/2")
    page.wait_for_function("document.activeElement.dataset.history === 'after'")  # the other is at its end
    say(kept, "third")
    assert kept.site.state()["messages"][-1] == ["What is AI?", learn, "second", script, "third"]
    assert (kept.foreign, kept.faults) == ([], [])


def test_a_tab_that_fell_behind_sends_nothing(kept: Visit) -> None:
    """One sentence, a button that shows what the other tab wrote, and what was typed is still there."""
    say(kept, "What is AI?")
    first, kept.page = kept.page, kept.page.context.new_page()
    kept.page.goto(kept.site.url)
    written(kept, "machines that learn")
    say(kept, "from the second tab")
    kept.page = first
    asked = len(kept.site.state()["messages"])
    say(kept, "from the first tab", answered=False)
    kept.page.locator("#cg-chat-status [role=alert]", has_text="went on in another tab").wait_for()
    assert kept.page.locator(ANSWERS).count() == 1
    kept.page.get_by_role("button", name="Show the newer state").click()
    answers(kept, 2)
    assert kept.page.input_value(BOX) == "from the first tab"
    assert len(kept.site.state()["messages"]) == asked


def test_html_in_a_question_is_edited_as_it_was_typed(chat: Visit) -> None:
    """An unchanged edit sends the same words again."""
    say(chat, "Is <b>this</b> &lt; bold?")
    before = len(chat.site.state()["messages"])
    chat.page.locator(_MINE).first.hover()
    chat.page.get_by_label("Edit", exact=True).first.click()
    chat.page.locator("#cg-chat textarea").wait_for()
    chat.page.get_by_label("Submit").first.click()
    until(lambda: len(chat.site.state()["messages"]) > before)
    assert chat.site.state()["messages"][-1] == ["Is <b>this</b> &lt; bold?"]
    assert "<b>this</b>" in chat.page.locator(_MINE).inner_text()
    ended(chat)
    chat.page.reload()  # of what is not kept, the page itself finds the last answer again
    _rows(chat, "Is <b>this</b> < bold?", "An answer from the script.")
    ended(chat)


def test_regenerate_and_undo_after_two_rounds(kept: Visit) -> None:
    """The last answer is made again; undo takes the last question back, also of a stopped answer, and stays undone."""
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
    kept.page.click("#cg-chat-stop")  # before, there is nothing to undo with
    ended(kept)
    kept.page.get_by_label("Undo").last.click()
    answers(kept, 1)
    until(lambda: kept.site.ticket()["ended"])
    kept.page.wait_for_timeout(400)  # time for a late word to come
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
    kept.page.wait_for_timeout(400)  # time for a late word to come
    assert kept.page.locator(ANSWERS).count() == 0
    kept.page.locator("#cg-history [data-history=open]").click()
    written(kept, "word3 ")
    assert kept.page.locator("#cg-chat .cg-cut").count() == 1


def test_rounds_that_no_longer_fit_are_left_out_and_said(serve: Serve, visitor: Visitor) -> None:
    """The bar fills, then the page says how many rounds the model did not see; they stay on the page."""
    site = serve("tiny")
    visit = open_chat(visitor(site, fresh=True))
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
