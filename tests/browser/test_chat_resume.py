"""Pages that go away in mid-answer and come back: reload, closed tab, lost connection, killed server."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_helpers import Serve, Visitor
from chat_steps import ANSWERS, BOX, STATUS, open_chat, restart, say, until, written

pytestmark = [pytest.mark.browser, pytest.mark.timeout(200)]

_LONG_GRACE, _SHORT_GRACE = '{"disconnect_grace": 60}', '{"disconnect_grace": 1}'


def test_a_reload_reads_on_where_it_was(serve: Serve, visitor: Visitor, tmp_path: Path) -> None:
    """The same answer goes on, on the same tab of the page, with what was typed; Stop stops it there."""
    site = serve("ready", CHATGLM_DATA=str(tmp_path), SCRIPTED_SETTINGS=_LONG_GRACE)
    visit = open_chat(visitor(site))
    say(visit, "slow", answered=False)
    written(visit, "word5 ")
    visit.page.fill(BOX, "half typed")
    visit.page.reload()
    visit.page.locator(f"{STATUS}[data-phase=writing]").wait_for(timeout=30_000)
    seen = len(visit.page.locator(ANSWERS).last.inner_text())
    visit.page.wait_for_function(
        f"document.querySelector('{ANSWERS}:last-of-type') && "
        f"[...document.querySelectorAll('{ANSWERS}')].pop().textContent.length > {seen + 50}",
        timeout=20_000,
    )
    visit.page.wait_for_function(f"document.querySelector('{BOX}').value === 'half typed'", timeout=10_000)
    assert not visit.page.locator("#cg-chat-go-on").is_visible()
    assert visit.page.locator("#cg-chat .cg-cut").count() == 0
    assert len(site.state()["tickets"]) == 1
    assert not site.state()["tickets"][0]["cancelled"]
    visit.page.click("#cg-chat-stop")
    visit.page.locator(f"{STATUS}[data-phase=done]").wait_for(timeout=20_000)
    assert site.state()["tickets"][0]["cancelled"]
    assert visit.page.locator("#cg-chat .cg-cut").inner_text() == "interrupted"
    assert (visit.foreign, visit.faults) == ([], [])


def test_a_prompts_answer_is_there_again_after_a_reload(serve: Serve, visitor: Visitor, tmp_path: Path) -> None:
    """The Prompt page reads on as well, with the prompt and the exact prompt."""
    site = serve("ready", CHATGLM_DATA=str(tmp_path), SCRIPTED_SETTINGS=_LONG_GRACE)
    visit = visitor(site)
    visit.send("slow")
    visit.status("writing")
    visit.page.reload()
    visit.page.wait_for_function(
        "(document.querySelector('#cg-output textarea') || {value: ''}).value.startsWith('word0 word1 ')",
        timeout=30_000,
    )
    visit.status("writing")
    assert visit.page.input_value("#cg-prompt textarea") == "slow"
    assert visit.page.input_value("#cg-sent textarea") == "问：slow\n答："
    assert len(site.state()["tickets"]) == 1
    visit.page.click("#cg-stop")
    assert "Stopped" in visit.status("done")


def test_a_closed_tab_frees_the_engine_after_the_grace(serve: Serve, visitor: Visitor, tmp_path: Path) -> None:
    """Its words are kept, marked as interrupted, and can be gone on with."""
    site = serve("ready", CHATGLM_DATA=str(tmp_path), SCRIPTED_SETTINGS=_SHORT_GRACE)
    visit = open_chat(visitor(site))
    say(visit, "slow", answered=False)
    written(visit, "word5 ")
    context = visit.page.context
    visit.page.close()
    until(lambda: site.state()["tickets"][0]["ended"])
    visit.page = context.new_page()
    visit.page.goto(site.url)
    visit.page.get_by_role("tab").nth(1).click()
    written(visit, "word5 ")
    assert visit.page.locator("#cg-chat .cg-cut").inner_text() == "interrupted"
    visit.page.click("#cg-chat-go-on")
    visit.page.locator(ANSWERS).nth(1).wait_for(timeout=20_000)
    visit.page.locator(f"{STATUS}[data-phase=done]").wait_for(timeout=20_000)
    assert site.state()["prompts"] == ["slow", "Please go on from where you stopped."]
    assert not visit.page.locator("#cg-chat-go-on").is_visible()


def test_a_killed_server_loses_nothing_that_was_shown(serve: Serve, visitor: Visitor, tmp_path: Path) -> None:
    """The open page notices the new process by itself and shows all words it had, marked, with Continue."""
    environment = {"CHATGLM_DATA": str(tmp_path), "SCRIPTED_SETTINGS": _LONG_GRACE}
    site = serve("ready", **environment)
    visit = open_chat(visitor(site))
    say(visit, "slow", answered=False)
    written(visit, "word9 ")
    seen = visit.page.locator(ANSWERS).last.inner_text().split()
    restart(site, **environment)
    visit.page.locator("#cg-chat .cg-cut").wait_for(timeout=60_000)
    kept = visit.page.locator(ANSWERS).last.inner_text().split()
    assert kept[: len(seen)] == seen
    visit.page.click("#cg-chat-go-on")
    visit.page.locator(f"{STATUS}[data-phase=done]").wait_for(timeout=20_000)
    assert visit.page.locator(ANSWERS).count() == 2


def test_a_lost_connection_is_said_and_the_answer_taken_up(serve: Serve, visitor: Visitor, tmp_path: Path) -> None:
    """Offline in mid-answer, in Chinese; once back, the page reads on."""
    site = serve("ready", CHATGLM_DATA=str(tmp_path), SCRIPTED_SETTINGS=_LONG_GRACE)
    visit = open_chat(visitor(site, language="zh-CN"))
    say(visit, "slow", answered=False)
    written(visit, "word5 ")
    visit.page.context.set_offline(True)
    visit.page.locator("#cg-lost", has_text="连接已断开").wait_for(timeout=20_000)
    visit.page.context.set_offline(False)
    visit.page.locator("#cg-lost", has_text="连接已断开").wait_for(state="detached", timeout=30_000)
    visit.page.locator(f"{STATUS}[data-phase=writing]").wait_for(timeout=30_000)
    assert len(site.state()["tickets"]) == 1
    made = site.state()["tickets"][0]["made"]
    written(visit, f"word{made + 5} ")
    visit.page.click("#cg-chat-clear")
