"""A document beside a question, in a real browser: from the opened page to an answer with its sources, and back."""

from __future__ import annotations

from typing import Any

import pytest
from browser_helpers import Serve, Visitor
from chat_steps import BOX, ended, open_chat, say, written

from tests.unit.test_documents_in_prompts import pdf

pytestmark = pytest.mark.browser

_WAITING = "#cg-chat-cards .cg-doc"
_SENT = "#cg-chat .user.message .cg-doc"
_SOURCES = "#cg-chat .cg-sources"


def _file(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": data}


def test_a_new_visitor_gets_an_answer_about_a_pdf_in_three_actions(serve: Serve, visitor: Visitor) -> None:
    """Choose it, write, send. The card has its tokens before; card and sources are there after a reload, too.

    Nothing is sent without a document that is still being read.
    """
    visit = visitor(serve("kept"), fresh=True)
    page = visit.page
    lease = pdf("The rent is due on the first day.", "AI is not allowed in the house.")
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/chat/document?*", hold)
    page.set_input_files("#cg-chat-attach", _file("lease.pdf", lease))
    page.fill(BOX, "What is AI?")
    page.press(BOX, "Enter")
    page.locator("#cg-chat-refused", has_text="Still reading the document").wait_for()
    held.pop().continue_()
    page.locator(_WAITING, has_text="tokens").wait_for()
    page.locator("#cg-chat-reading .cg-doc").wait_for(state="detached")
    assert page.inner_text("#cg-chat-refused") == ""
    assert page.input_value(BOX) == "What is AI?"
    page.press(BOX, "Enter")
    written(visit, "machines that learn")
    ended(visit)
    assert page.locator(_WAITING).count() == 0
    for reloaded in (False, True):
        if reloaded:
            page.reload()
        assert page.locator(_SENT).inner_text().split("\n")[0] == "lease.pdf"
        assert "The rent is due" not in page.locator("#cg-chat .user.message").inner_text()
        page.locator(_SOURCES).get_by_text("Sources: all was read").click()
        assert "lease.pdf, page 2" in page.locator(_SOURCES).inner_text()
    say(visit, "And the rent?")
    said = visit.site.state()["messages"][-1]
    assert said[0].startswith("[lease.pdf, p. 1]\nThe rent is due")
    assert said[-1] == "And the rent?"
    page.locator("#cg-chat .user.message").first.hover()
    page.get_by_label("Edit").first.click()
    page.wait_for_function("document.querySelector('#cg-chat textarea')?.value.trim() === 'What is AI?'")
    assert (visit.foreign, visit.faults) == ([], [])


def test_files_are_dropped_refused_and_taken_away_again(serve: Serve, visitor: Visitor) -> None:
    """On a phone, in Chinese, where nothing is kept: one sentence for what cannot be read, and what is typed stays."""
    visit = open_chat(visitor(serve(), language="zh-CN", width=360, fresh=True))
    page = visit.page
    page.fill(BOX, "房租多少？")
    page.evaluate(
        """() => {
            const files = new DataTransfer();
            files.items.add(new File(["房租每月一号交。"], "租约.md"));
            files.items.add(new File([new Uint8Array([137, 80, 0, 1, 2, 0, 0, 3])], "照片.png"));
            files.items.add(new File(["more"], "more.txt"));
            files.items.add(new File(["notes, of a rather long name"], "x".repeat(90) + ".csv"));
            document.querySelector("#cg-chat").dispatchEvent(
                new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: files }));
        }"""
    )
    page.locator(_WAITING).nth(2).wait_for()
    assert page.locator("#cg-chat-refused").inner_text().startswith("无法读取 照片.png：")
    assert "个 token" in page.locator(_WAITING).first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.evaluate(f"[...document.querySelectorAll('{_WAITING} button')].slice(1).forEach((one) => one.click())")
    page.wait_for_function(f"document.querySelectorAll('{_WAITING}').length === 1")
    page.reload()
    page.locator(_WAITING).wait_for()
    assert page.input_value(BOX) == "房租多少？"
    page.press(BOX, "Enter")
    page.locator(_SOURCES).get_by_text("来源：已阅读全文").wait_for()
    assert visit.site.state()["messages"][-1] == ["[租约.md]\n房租每月一号交。\n\n房租多少？"]
    assert (visit.foreign, visit.faults) == ([], [])
