"""What helps while one writes: tokens counted, prompts of one's own, numbers that stay set, a list of the keys."""

from __future__ import annotations

from typing import Any

import pytest
from browser_helpers import Visit, until
from chat_steps import BOX, ended, open_chat, say

pytestmark = pytest.mark.browser

_NUMBER = "#cg-chat-max-new-tokens input[type=number]"


def test_help_while_writing(kept: Visit) -> None:
    """A count beside the box, a prompt saved and put where the cursor is, a number that a reload keeps, all keys."""
    page = kept.page
    page.fill(BOX, 'Say "a\\b":\n')
    page.locator(".cg-count", has_text="11 tokens").wait_for()
    page.locator(".cg-saved summary").click()
    page.get_by_role("button", name="Save the text in the message box").click()
    page.keyboard.press("Enter")
    page.locator(".cg-saved .cg-open", has_text='Say "a\\b":').focus()
    page.evaluate("new Promise((go) => { document.body.append(''); setTimeout(go); })")  # the page changes somewhere
    assert page.evaluate("document.activeElement.matches('.cg-saved .cg-open')")
    page.fill(BOX, 'Say "a\\b":\nhello')
    page.get_by_role("button", name="Save the text in the message box").click()
    asked = page.locator("dialog", has_text="Replace it?")
    for answer in (".cg-tool:not(.cg-yes)", ".cg-yes"):  # no leads back to the name
        page.locator("dialog input").press("Enter")
        asked.locator(answer).click()
    page.locator('.cg-saved .cg-open[data-insert$="hello"]').wait_for()
    page.locator(".cg-saved summary", has_text="(1)").wait_for()
    page.fill(BOX, "x" * 2100)
    page.locator(".cg-count.cg-over", has_text="more than this model can read").wait_for()
    page.fill(BOX, "end")
    page.evaluate(f"document.querySelector('{BOX}').setSelectionRange(0, 0)")
    page.locator(".cg-saved .cg-open").click()
    assert page.input_value(BOX) == 'Say "a\\b":\nhelloend'
    page.locator(".cg-saved [data-history=delete_prompt]").click()
    page.locator("dialog .cg-yes").click()
    page.locator(".cg-saved summary", has_text="(0)").wait_for()

    kept.limit(3, "#cg-chat-max-new-tokens")
    page.reload()
    open_chat(kept)
    say(kept, "What is AI?")
    assert kept.site.state()["max_new_tokens"][-1] == 3
    page.click("#cg-chat-settings > button")
    assert page.input_value(_NUMBER) == "3"
    page.click("#cg-chat-max-new-tokens button")
    until(lambda: page.input_value(_NUMBER) == "512")
    assert page.evaluate("localStorage.getItem('chatglm_settings')") == "{}"
    # What is set while the page is loading is not set back when it has been.
    page.evaluate(f"document.querySelector('{_NUMBER}').value = 7")
    assert page.evaluate("chatglm.settings([['cg-chat-max-new-tokens', 512, 1, 2048]])") == [7]

    page.locator("h1").click()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keyboard shortcuts").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Keyboard shortcuts").click()
    page.locator("dialog", has_text="Shift+Enter").wait_for()
    page.keyboard.press("Enter")
    page.locator("dialog").wait_for(state="detached")
    page.locator(BOX).press_sequentially("?")
    assert page.locator("dialog").count() == 0  # a question mark is text where text is typed
    assert (kept.foreign, kept.faults) == ([], [])


def test_a_draft_is_never_lost(chat: Visit) -> None:
    """What is typed while a message is on its way stays; a question that comes back, or a beginning, goes before it."""
    page = chat.page
    held: list[Any] = []
    going_on = False

    def hold(route: Any) -> None:
        if going_on:
            route.continue_()
        else:
            held.append(route)

    page.route("**/queue/join*", hold)
    page.fill(BOX, "What is AI?")
    page.press(BOX, "Enter")
    page.keyboard.type("and then")
    until(lambda: page.wait_for_timeout(50) or held)
    going_on = True
    for route in held:
        route.continue_()
    ended(chat)
    assert page.input_value(BOX) == "and then"
    page.get_by_label("Undo").last.click()
    page.wait_for_function(f"document.querySelector('{BOX}').value === 'What is AI?\\n\\nand then'")
    page.get_by_role("button", name="Summarise").click()
    page.get_by_role("button", name="Translate").click()
    started = page.get_by_role("button", name="Translate").get_attribute("data-fill")
    assert page.input_value(BOX) == f"{started}What is AI?\n\nand then"
    assert (chat.foreign, chat.faults) == ([], [])
