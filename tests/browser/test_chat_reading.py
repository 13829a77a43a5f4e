"""Reading and typing on the Chat page, in a real browser: keys, focus, scrolling, copying, what is heard."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from browser_helpers import Serve, Visit, Visitor, until
from chat_steps import ANSWERS, BOX, answers, ended, open_chat, say, written

pytestmark = pytest.mark.browser

_FOCUSED = "document.activeElement === document.querySelector('#cg-chat-box textarea')"
_LOG = "document.querySelector('#cg-chat [role=log]')"


def test_an_input_method_never_sends(visit: Visit) -> None:
    """Characters being chosen, the key that confirms them included; the same key afterwards sends."""
    session = visit.page.context.new_cdp_session(visit.page)  # through which an input method can be played
    for tab, box, keys in ((0, BOX, "Enter"), (1, "#cg-prompt textarea", "Control+Enter")):
        visit.tab(tab, box)
        _compose(visit, session, box, keys)


def _compose(visit: Visit, session: Any, box: str, keys: str) -> None:
    before = len(visit.site.state()["prompts"])
    visit.page.focus(box)
    session.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    assert visit.page.input_value(box) == "ni hao"
    for kind in ("rawKeyDown", "keyUp"):  # what browsers send while an input method holds the key
        session.send(
            "Input.dispatchKeyEvent",
            {"type": kind, "windowsVirtualKeyCode": 229, "key": "Enter", "code": "Enter",
             "modifiers": 2 if keys.startswith("Control") else 0},
        )  # fmt: skip
    assert len(visit.site.state()["prompts"]) == before
    session.send("Input.insertText", {"text": "AI是什么？"})
    until(lambda: visit.page.input_value(box) == "AI是什么？")
    assert len(visit.site.state()["prompts"]) == before
    visit.page.keyboard.press(keys)
    until(lambda: len(visit.site.state()["prompts"]) == before + 1)
    assert visit.site.state()["prompts"][before:] == ["AI是什么？"]


def test_the_focus_returns_to_the_box(chat: Visit) -> None:
    """After sending with the mouse, stopping, undoing, regenerating and beginning anew one types on."""
    chat.page.fill(BOX, "What is AI?")
    chat.page.click("#cg-chat-send")
    chat.page.wait_for_function(_FOCUSED)
    ended(chat)
    chat.page.wait_for_function(_FOCUSED)
    say(chat, "slow", answered=False)
    written(chat, "word2 ")
    chat.page.click("#cg-chat-stop")
    chat.page.locator("#cg-chat .cg-cut").wait_for()
    chat.page.wait_for_function(_FOCUSED)
    chat.page.get_by_label("Undo").last.click()
    chat.page.wait_for_function(f"document.querySelector('{BOX}').value === 'slow'")
    chat.page.wait_for_function(_FOCUSED)
    chat.page.click("#cg-chat-clear")
    answers(chat, 0)
    chat.page.wait_for_function(_FOCUSED)


def _still(visit: Visit) -> bool:
    """Whether the wheel's smooth scrolling has come to its end."""
    top = visit.page.evaluate(f"{_LOG}.scrollTop")
    visit.page.wait_for_timeout(150)
    return bool(visit.page.evaluate(f"{_LOG}.scrollTop") == top)


def test_scrolling_yields_to_a_reader_who_scrolled_up(chat: Visit) -> None:
    """New words keep the end in sight; one turn of the wheel is enough to stay; at the end it goes on."""
    chat.limit(2000, "#cg-chat-max-new-tokens")
    say(chat, "paragraphs", answered=False)
    chat.page.wait_for_function(f"{_LOG}.scrollHeight > {_LOG}.clientHeight + 500")
    at_end = f"{_LOG}.scrollHeight - {_LOG}.scrollTop - {_LOG}.clientHeight < 40"
    chat.page.wait_for_function(at_end)
    chat.page.hover("#cg-chat")
    chat.page.mouse.wheel(0, -200)
    until(lambda: not chat.page.evaluate(at_end) and _still(chat))
    top = chat.page.evaluate(f"{_LOG}.scrollTop")
    height = chat.page.evaluate(f"{_LOG}.scrollHeight")
    chat.page.wait_for_function(f"{_LOG}.scrollHeight > {height} + 100")
    assert abs(chat.page.evaluate(f"{_LOG}.scrollTop") - top) <= 2
    chat.page.mouse.wheel(0, 100_000)
    height = chat.page.evaluate(f"{_LOG}.scrollHeight")
    chat.page.wait_for_function(f"{_LOG}.scrollHeight > {height} + 100")
    chat.page.wait_for_function(at_end)
    chat.page.click("#cg-chat-clear")


def test_screen_readers_hear_sentences_once(serve: Serve, visitor: Visitor) -> None:
    """A polite region gets each new sentence and the end; the ticking figures and the log stay silent."""
    visit = open_chat(visitor(serve(), fresh=True))
    visit.page.evaluate(
        "window.heard = []; new MutationObserver(all => all.forEach(one => one.addedNodes.forEach("
        "node => heard.push(node.textContent)))).observe(document.querySelector('.cg-heard'), {childList: true})"
    )
    say(visit, "sentences please")
    visit.page.wait_for_function("heard.some(line => line.startsWith('Finished'))")
    heard = " ".join(visit.page.evaluate("heard"))
    assert [heard.count(word) for word in ("First one.", "Second one!", "Third one?")] == [1, 1, 1]
    assert "Writing" not in heard
    assert visit.page.get_attribute(".cg-heard", "aria-live") == "polite"
    assert visit.page.get_attribute("#cg-chat [role=log]", "aria-live") == "off"
    assert visit.page.locator("#cg-chat-status [aria-live]").count() == 0


def _pasted(visit: Visit) -> str:
    visit.page.fill(BOX, "")
    visit.page.focus(BOX)
    visit.page.keyboard.press("Control+V")
    return str(visit.page.input_value(BOX))


def test_copying_works_over_plain_http_on_the_network(serve: Serve, visitor: Visitor) -> None:
    """At a LAN-style name browsers give no clipboard; code and answers are copied as the model wrote them."""
    site = serve()
    lan = replace(site, url=site.url.replace("127.0.0.1", "chatglm-demo.lan"))
    visit = open_chat(visitor(lan, fresh=True))
    assert visit.page.evaluate("isSecureContext") is False
    say(visit, "markup please")
    code = visit.page.locator(f"{ANSWERS} .code_wrap").first
    code.hover()
    code.locator("button").first.click()
    assert _pasted(visit).strip() == 'if a < b:\n    print("<p>&lt;</p>")'
    visit.page.locator("#cg-chat").get_by_label("Copy message").last.click()
    copied = _pasted(visit)
    assert copied == 'A <b>tag</b>, `<i>`:\n\n~~~python\nif a < b:\n    print("<p>&lt;</p>")\n~~~\nDone.'
    visit.tab(1, "#cg-prompt")
    visit.send("html please")
    visit.status("done")
    until(lambda: visit.output().endswith(" done"))
    visit.page.locator("#cg-output").get_by_role("button").first.click()
    visit.page.fill("#cg-prompt textarea", "")
    visit.page.focus("#cg-prompt textarea")
    visit.page.keyboard.press("Control+V")
    assert visit.page.input_value("#cg-prompt textarea") == visit.output()
    assert (visit.foreign, visit.faults) == ([], [])


def test_answers_are_copied_whole_and_without_marks(chat: Visit) -> None:
    """A long one stands in pieces, of which only the last is rendered anew for each word; nobody can tell.

    The mark of a stopped one is for the screen.
    """
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.limit(60, "#cg-chat-max-new-tokens")
    say(chat, "paragraphs")
    written(chat, "Paragraph 59 of many")
    assert chat.page.locator(f"{ANSWERS} .md").count() == 3
    assert chat.page.locator(ANSWERS).count() == 1
    chat.page.locator("#cg-chat").get_by_label("Copy message").last.click()
    whole = "".join(f"Paragraph {number} of many, with some words in it.\n\n" for number in range(60))
    until(lambda: chat.page.evaluate("navigator.clipboard.readText()") == whole)
    say(chat, "slow", answered=False)
    written(chat, "word2 ")
    chat.page.keyboard.press("Escape")
    chat.page.locator(ANSWERS).last.locator(".cg-cut").wait_for()
    chat.page.locator("#cg-chat").get_by_label("Copy message").last.click()
    until(lambda: chat.page.evaluate("navigator.clipboard.readText()").startswith("word0 word1 word2 "))
    copied = chat.page.evaluate("navigator.clipboard.readText()")
    assert "not finished" not in copied
    assert "<" not in copied
