"""Pages that go away in mid-answer and come back: reload, closed tab, lost connection, killed server."""

from __future__ import annotations

import pytest
from browser_helpers import Serve, Visitor, until
from chat_steps import ANSWERS, BOX, STATUS, ended, open_chat, say, written

pytestmark = pytest.mark.browser


def test_a_reload_reads_on_where_it_was(serve: Serve, visitor: Visitor) -> None:
    """The same answer goes on, on the same tab of the page, with what was typed; Stop stops it there."""
    site = serve("kept")
    visit, before = open_chat(visitor(site, fresh=True)), len(site.state()["tickets"])
    say(visit, "slow", answered=False)
    written(visit, "word5 ")
    visit.page.fill(BOX, "half typed")
    visit.page.reload()
    visit.page.locator(f"{STATUS}[data-phase=writing]").wait_for()
    seen = len(visit.page.locator(ANSWERS).last.inner_text())
    visit.page.wait_for_function(
        f"document.querySelector('{ANSWERS}:last-of-type') && "
        f"[...document.querySelectorAll('{ANSWERS}')].pop().textContent.length > {seen + 50}",
    )
    visit.page.wait_for_function(f"document.querySelector('{BOX}').value === 'half typed'")
    assert not visit.page.locator("#cg-chat-go-on").is_visible()
    assert visit.page.locator("#cg-chat .cg-cut").count() == 0
    assert len(site.state()["tickets"]) == before + 1
    assert not site.ticket()["cancelled"]
    visit.page.click("#cg-chat-stop")
    ended(visit)
    assert site.ticket()["cancelled"]
    assert visit.page.locator("#cg-chat .cg-cut").inner_text() == "not finished"
    assert (visit.foreign, visit.faults) == ([], [])


def test_a_prompts_answer_is_there_again_after_a_reload(serve: Serve, visitor: Visitor) -> None:
    """The Prompt page reads on as well, with the exact prompt; what has ended is there as well, to continue."""
    site = serve("kept")
    visit, before = visitor(site), len(site.state()["tickets"])
    visit.limit(2048)
    visit.send("slow")
    visit.status("writing")
    visit.page.reload()
    visit.page.wait_for_function(
        "(document.querySelector('#cg-output textarea') || {value: ''}).value.startsWith('word0 word1 ')",
    )
    visit.status("writing")
    assert visit.page.input_value("#cg-prompt textarea") == "slow"
    assert visit.page.input_value("#cg-sent textarea") == "问：slow\n答："
    assert len(site.state()["tickets"]) == before + 1
    visit.page.click("#cg-stop")
    assert "Stopped" in visit.status("done")
    stopped = visit.output()
    visit.page.reload()
    assert "Stopped" in visit.status("done")
    assert visit.output() == stopped
    visit.limit(2)
    visit.page.click("#cg-go-on")
    until(lambda: visit.output() == f"{stopped}word0 word1 ")
    assert site.state()["prompts"][-1] == "slow"  # what was answered goes along as the answer's beginning


def test_a_closed_tab_frees_the_engine_after_the_grace(serve: Serve, visitor: Visitor) -> None:
    """Its words are kept, marked as interrupted, and can be gone on with."""
    site = serve("brittle")
    visit = open_chat(visitor(site, fresh=True))
    say(visit, "slow", answered=False)
    written(visit, "word5 ")
    context = visit.page.context
    visit.page.close()
    until(lambda: site.ticket()["ended"])
    visit.page = context.new_page()
    visit.page.goto(site.url)
    open_chat(visit)
    written(visit, "word5 ")
    assert visit.page.locator("#cg-chat .cg-cut").inner_text() == "not finished"
    visit.page.click("#cg-chat-go-on")
    written(visit, "An answer from the script.")
    ended(visit)
    sent = site.state()["messages"][-1]
    assert (sent[0], sent[1].startswith("word0 word1 "), len(sent)) == ("slow", True, 2)
    assert visit.page.locator(ANSWERS).inner_text().startswith("word0 word1 ")
    assert not visit.page.locator("#cg-chat-go-on").is_visible()


def test_a_killed_server_loses_nothing_that_was_shown(serve: Serve, visitor: Visitor) -> None:
    """The open page notices the new process by itself and shows all words it had, marked, with Continue."""
    site = serve("brittle")
    visit = open_chat(visitor(site, fresh=True))
    say(visit, "slow", answered=False)
    written(visit, "word9 ")
    seen = visit.page.locator(ANSWERS).last.inner_text().split()
    site.restart()
    visit.page.locator("#cg-chat .cg-cut").wait_for()
    kept = visit.page.locator(ANSWERS).last.inner_text().split()
    assert kept[: len(seen)] == seen
    visit.page.click("#cg-chat-go-on")
    ended(visit)
    assert visit.page.locator(ANSWERS).count() == 1


def test_a_lost_connection_is_said_and_the_answer_taken_up(serve: Serve, visitor: Visitor) -> None:
    """Offline in mid-answer, in Chinese; once back, the page reads on."""
    site = serve("kept")
    visit, before = open_chat(visitor(site, language="zh-CN", fresh=True)), len(site.state()["tickets"])
    say(visit, "slow", answered=False)
    written(visit, "word5 ")
    visit.page.context.set_offline(True)
    visit.page.locator("#cg-lost", has_text="连接已断开").wait_for()
    assert not visit.page.locator(STATUS).is_visible()  # nobody knows whether anything is written now
    visit.page.context.set_offline(False)
    visit.page.locator("#cg-lost", has_text="连接已断开").wait_for(state="detached")
    visit.page.locator(f"{STATUS}[data-phase=writing]").wait_for()
    assert len(site.state()["tickets"]) == before + 1
    made = site.ticket()["made"]
    written(visit, f"word{made + 5} ")
    visit.page.click("#cg-chat-clear")
