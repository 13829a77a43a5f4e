"""Conversations that are kept, in a real browser: apart for visitors, there after a reload and a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser_helpers import Serve, Visit, Visitor
from chat_steps import BOX, answers, open_chat, say, titles, written

pytestmark = pytest.mark.browser


def test_two_visitors_and_a_restart(serve: Serve, visitor: Visitor) -> None:
    """Each sees their own list only; reload and restart show the conversation last open; deleting deletes."""
    site = serve("brittle")
    ann, bob = open_chat(visitor(site, fresh=True)), open_chat(visitor(site, fresh=True))
    say(ann, "What is AI?")
    titles(ann, "What is AI?")
    say(bob, "Tell bob something")
    titles(bob, "Tell bob something")

    ann.page.reload()
    open_chat(ann)
    written(ann, "machines that learn")
    titles(ann, "What is AI?")

    site.restart()
    ann.page.goto(site.url)
    open_chat(ann)
    written(ann, "machines that learn")
    say(ann, "and then?")
    answers(ann, 2)
    titles(ann, "What is AI?")

    ann.page.locator("[data-history=delete_all]").click()
    ann.page.locator("dialog .cg-yes").click()
    titles(ann)
    ann.page.reload()
    open_chat(ann)
    say(ann, "a new one")
    titles(ann, "a new one")
    answers(ann, 1)
    bob.page.goto(site.url)
    open_chat(bob)
    titles(bob, "Tell bob something")
    assert (ann.foreign, ann.faults) == ([], [])


def test_list_search_rename_export_import(kept: Visit, tmp_path: Path) -> None:
    """The panel's own ways, and a file that goes out and comes back."""
    say(kept, "What is AI?")
    kept.page.locator("#cg-chat-clear").click()
    answers(kept, 0)
    say(kept, "100% <b>sure</b>")
    titles(kept, "100% <b>sure</b>", "What is AI?")

    search = kept.page.locator("#cg-history-search").locator("input, textarea").first
    search.fill("machines")
    titles(kept, "What is AI?")
    kept.page.locator("#cg-history [data-history=open]").click()
    written(kept, "machines that learn")
    search.fill("")
    titles(kept, "100% <b>sure</b>", "What is AI?")

    kept.page.locator("#cg-history .cg-row[aria-current] [data-history=rename]").click()
    kept.page.keyboard.type("Renamed 改名")
    kept.page.keyboard.press("Enter")
    kept.page.locator("#cg-history .cg-open", has_text="Renamed 改名").wait_for()

    with kept.page.expect_download() as waiting:
        kept.page.locator("#cg-history a[href*='form=json']").click()
    file = tmp_path / "export.json"
    waiting.value.save_as(file)
    assert waiting.value.suggested_filename == "Renamed 改名.json"
    assert [one["title"] for one in json.loads(file.read_text("utf-8"))["conversations"]] == ["Renamed 改名"]

    kept.page.locator("#cg-history .cg-row[aria-current] [data-history=delete]").click()
    kept.page.locator("dialog .cg-yes").click()
    titles(kept, "100% <b>sure</b>")
    kept.page.set_input_files("#cg-history input[type=file]", file)
    kept.page.locator("#cg-history .cg-open", has_text="Renamed 改名").wait_for()
    assert kept.page.locator("#cg-history .cg-open").count() == 2
    written(kept, "machines that learn")
    file.write_text("{}")
    kept.page.set_input_files("#cg-history input[type=file]", file)
    kept.page.locator("#cg-history-said", has_text="holds no conversations of this program").wait_for()
    assert (kept.foreign, kept.faults) == ([], [])


def test_a_call_of_a_tool_is_a_folded_card(kept: Visit) -> None:
    """It opens with a click and runs nothing; the result is the next message; both are there after a reload."""
    kept.page.locator("#cg-chat-settings button").first.click()
    tools = kept.page.locator("#cg-chat-tools textarea")
    tools.fill('[{"name": "get_weather"}')
    say(kept, "weather?", answered=False)
    kept.page.locator("#cg-chat-status [role=alert]", has_text="JSON list of functions").wait_for()
    tools.fill('[{"name": "get_weather"}]')
    assert kept.page.input_value(BOX) == "weather?"
    assert not kept.page.locator("#cg-chat-go-on").is_visible()
    kept.page.press(BOX, "Enter")
    written(kept, "send the result as the next message")
    card = kept.page.locator("#cg-chat details")
    assert not card.locator("pre").is_visible()
    card.locator("summary", has_text="Call: get_weather").click()
    card.locator("pre", has_text='"city": "Beijing"').wait_for()
    say(kept, "<b>21</b> degrees")
    written(kept, "An answer from the script.")
    kept.page.reload()
    open_chat(kept)
    kept.page.locator("#cg-chat summary", has_text="Result").click()
    kept.page.locator("#cg-chat pre", has_text="<b>21</b> degrees").wait_for()
    assert kept.page.locator("#cg-chat details").count() == 2
    assert kept.faults == []
