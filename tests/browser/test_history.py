"""Conversations that are kept, in a real browser: apart for visitors, there after a reload and a restart."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from browser_helpers import Serve, Visit, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]


def _chat(visit: Visit) -> Visit:
    visit.page.get_by_role("tab").nth(1).click()
    visit.page.locator("#cg-chat-box textarea").wait_for(timeout=15_000)
    return visit


def _say(visit: Visit, text: str) -> None:
    rounds = visit.page.locator("#cg-chat .bot.message").count()
    visit.page.fill("#cg-chat-box textarea", text)
    visit.page.press("#cg-chat-box textarea", "Enter")
    visit.page.locator("#cg-chat .bot.message").nth(rounds).wait_for(timeout=15_000)
    visit.page.locator("#cg-chat-status .cg-status[data-phase=done]").wait_for(timeout=15_000)


def _titles(visit: Visit, count: int) -> list[str]:
    """Wait until the list has so many rows; returns their titles."""
    visit.page.wait_for_function(f"document.querySelectorAll('#cg-history .cg-row').length === {count}", timeout=15_000)
    return list(visit.page.locator("#cg-history .cg-open span").all_inner_texts())


def _answer(visit: Visit) -> str:
    last = visit.page.locator("#cg-chat .bot.message").last
    last.wait_for(timeout=15_000)
    return str(last.inner_text()).strip()


def test_two_visitors_and_a_restart(serve: Serve, visitor: Visitor, tmp_path: Path) -> None:
    """Each sees their own list only; reload and restart show the conversation last open; deleting deletes."""
    site = serve("ready", CHATGLM_DATA=str(tmp_path))
    ann, bob = _chat(visitor(site)), _chat(visitor(site))
    _say(ann, "What is AI?")
    assert _titles(ann, 1) == ["What is AI?"]
    _say(bob, "Tell bob something")
    assert _titles(bob, 1) == ["Tell bob something"]

    ann.page.reload()
    _chat(ann)
    assert "machines that learn" in _answer(ann)
    assert _titles(ann, 1) == ["What is AI?"]

    site.process.kill()
    site.process.wait(15)
    arguments = list(site.process.args)  # type: ignore[arg-type]
    site.process = subprocess.Popen(arguments, env={**_environment(), "CHATGLM_DATA": str(tmp_path)})
    _until_open(ann, site.url)
    ann.page.goto(site.url)
    _chat(ann)
    assert "machines that learn" in _answer(ann)
    _say(ann, "and then?")
    assert ann.page.locator("#cg-chat .bot.message").count() == 2
    assert _titles(ann, 1) == ["What is AI?"]

    ann.page.locator("[data-history=delete_all]").click()
    ann.page.locator("dialog .cg-yes").click()
    assert _titles(ann, 0) == []
    ann.page.reload()
    _chat(ann)
    ann.page.wait_for_timeout(1500)
    assert ann.page.locator("#cg-chat .bot.message").count() == 0
    bob.page.goto(site.url)
    _chat(bob)
    assert _titles(bob, 1) == ["Tell bob something"]
    assert (ann.foreign, ann.faults) == ([], [])


def test_list_search_rename_export_import(serve: Serve, visitor: Visitor, tmp_path: Path) -> None:
    """The panel's own ways, and a file that goes out and comes back."""
    visit = _chat(visitor(serve("ready", CHATGLM_DATA=str(tmp_path))))
    _say(visit, "What is AI?")
    visit.page.locator("#cg-chat-clear").click()
    visit.page.wait_for_function("!document.querySelector('#cg-chat .bot.message')")
    _say(visit, "100% <b>sure</b>")
    assert _titles(visit, 2) == ["100% <b>sure</b>", "What is AI?"]

    search = visit.page.locator("#cg-history-search").locator("input, textarea").first
    search.fill("machines")
    assert _titles(visit, 1) == ["What is AI?"]
    visit.page.locator("#cg-history [data-history=open]").click()
    visit.page.locator("#cg-chat .bot.message", has_text="machines that learn").wait_for(timeout=15_000)
    search.fill("")
    _titles(visit, 2)

    visit.page.locator("#cg-history .cg-row[aria-current] [data-history=rename]").click()
    visit.page.keyboard.type("Renamed 改名")
    visit.page.keyboard.press("Enter")
    visit.page.locator("#cg-history .cg-open", has_text="Renamed 改名").wait_for(timeout=15_000)

    with visit.page.expect_download() as waiting:
        visit.page.locator("#cg-history a[href*='form=json']").click()
    file = tmp_path / "export.json"
    waiting.value.save_as(file)
    assert waiting.value.suggested_filename == "Renamed 改名.json"
    assert [one["title"] for one in json.loads(file.read_text("utf-8"))["conversations"]] == ["Renamed 改名"]

    visit.page.locator("#cg-history .cg-row[aria-current] [data-history=delete]").click()
    visit.page.locator("dialog .cg-yes").click()
    assert _titles(visit, 1) == ["100% <b>sure</b>"]
    visit.page.set_input_files("#cg-history input[type=file]", file)
    assert "Renamed 改名" in _titles(visit, 2)
    assert "machines that learn" in _answer(visit)
    file.write_text("{}")
    visit.page.set_input_files("#cg-history input[type=file]", file)
    visit.page.locator("#cg-history-said", has_text="holds no conversations of this program").wait_for(timeout=15_000)
    assert (visit.foreign, visit.faults) == ([], [])


def test_a_reload_in_mid_answer_keeps_what_was_written(serve: Serve, visitor: Visitor, tmp_path: Path) -> None:
    """The words so far are there again."""
    visit = _chat(visitor(serve("ready", CHATGLM_DATA=str(tmp_path))))
    visit.page.fill("#cg-chat-box textarea", "slow")
    visit.page.press("#cg-chat-box textarea", "Enter")
    visit.page.locator("#cg-chat .bot.message", has_text="word20").wait_for(timeout=15_000)
    visit.page.reload()
    _chat(visit)
    assert "word5 " in _answer(visit)


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def _until_open(visit: Visit, url: str) -> None:
    for _ in range(120):
        try:
            visit.page.request.get(f"{url}/scripted/state", timeout=1000)
        except Exception:  # noqa: BLE001, PERF203  not up yet
            visit.page.wait_for_timeout(250)
        else:
            return
    raise AssertionError("the page did not open again")
