"""The Model page in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_helpers import Serve, Visitor, until
from chat_steps import say

pytestmark = pytest.mark.browser

_SOURCE = "#cg-model-source :is(input, textarea)"


def test_another_model_is_loaded_with_progress_and_the_conversation_stays(serve: Serve, visitor: Visitor) -> None:
    """Facts, progress, cancel; the page needs no restart and what was said remains.

    There are no fine-tunes and no page offers a choice of them; there is a box to add one.
    """
    site = serve("loading")
    visit = visitor(site)
    before = len(site.state()["loaded"])
    visit.page.locator(".cg-model[data-state=ready]").wait_for()
    visit.send("What is AI?")
    visit.answered("AI is the study of machines that learn.")
    visit.tab(4, "#cg-model-facts dl")
    assert "scripted-chatglm" in visit.page.inner_text("#cg-model-facts")
    assert visit.page.locator("#cg-adapter-source").is_visible()
    choices = visit.page.locator("#cg-adapter, #cg-chat-adapter, #cg-compare-adapter-a")
    assert [choice.is_visible() for choice in choices.all()] == [False] * choices.count()
    visit.page.fill(_SOURCE, "/models/other")
    site.hold()
    visit.page.click("#cg-model-load")
    visit.page.locator(".cg-model[data-state=loading] [role=progressbar]").wait_for()
    visit.page.click("#cg-model-cancel")
    visit.page.locator(".cg-model[data-state=none]").wait_for()
    site.release()
    visit.page.click("#cg-model-load")
    visit.page.locator(".cg-model[data-state=ready]").wait_for()
    assert site.state()["loaded"][before:] == ["/models/other", "/models/other"]
    visit.tab(1, "#cg-prompt")
    assert visit.output() == "AI is the study of machines that learn."


def test_the_notice_of_the_demo_leads_to_the_models_and_goes_away(serve: Serve, visitor: Visitor) -> None:
    """One line, a button to the Model page, and one that puts it away for good in this browser.

    With it, what a conversation can begin with, and the line under an answer, stand above the message box, on a phone
    and on a desk.
    """
    visit = visitor(serve("demo"), fresh=True)
    page = visit.page

    def stands_above_the_box(part: str) -> None:
        for width in (360, 1280):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_function(
                """part => document.querySelector(part).getBoundingClientRect().bottom
                    <= document.querySelector("#cg-chat-composer").getBoundingClientRect().top + 0.5""",
                arg=part,
            )

    note = page.locator(".cg-demo")
    assert "not a real ChatGLM" in note.inner_text()
    stands_above_the_box("#cg-chat-presets")
    say(visit, "What is AI?")
    stands_above_the_box("#cg-chat-status")
    page.click(".cg-demo [data-action=model]")
    page.locator("#cg-model-source").wait_for()
    assert page.locator("[role=tab][aria-selected=true]").get_attribute("data-tab-id") == "model"
    page.click(".cg-demo [data-action=dismiss]")
    note.wait_for(state="hidden")
    page.reload()
    page.locator(".cg-model[data-state=ready]").wait_for()
    assert not note.is_visible()


def test_on_a_shared_page_only_the_computer_itself_loads_and_deletes(
    serve: Serve, visitor: Visitor, tmp_path: Path
) -> None:
    """The server refuses others, whatever the buttons look like; the same page lets its own computer.

    Of what is kept, Cancel leaves it, Delete removes it; needs and the doctor's report are shown.
    """
    hub = tmp_path / "hub"
    kept = hub / "models--THUDM--chatglm2-6b"
    (kept / "blobs").mkdir(parents=True)
    (kept / "blobs" / "x").write_bytes(b"x" * 2_000_000)
    site = serve("shared", HF_HUB_CACHE=str(hub), CHATGLM_CACHE=str(tmp_path / "cache"))
    far = visitor(site, headers={"X-Forwarded-For": "192.168.1.7"})
    far.tab(4, "#cg-model-source")
    far.page.locator("#cg-model-notice", has_text="shared").wait_for()
    assert far.page.locator("#cg-model-load").is_disabled()
    far.page.locator("#cg-kept li", has_text="chatglm2-6b").wait_for()
    assert far.page.locator("#cg-kept button").is_disabled()
    before = site.state()["loaded"]
    far.page.fill(_SOURCE, "/models/other")
    far.page.press(_SOURCE, "Enter")
    assert far.page.locator("#cg-models button:enabled").count() == 0
    far.page.click("#cg-doctor-run")
    far.page.locator("#cg-doctor", has_text="shared").wait_for()
    assert far.page.locator("#cg-doctor dl").count() == 0
    assert site.state()["loaded"] == before
    near = visitor(site)
    near.tab(4, "#cg-model-source")
    page = near.page
    page.fill(_SOURCE, "/models/other")
    page.press(_SOURCE, "Enter")
    until(lambda: site.state()["loaded"] == [*before, "/models/other"])
    page.get_by_role("button", name="Download CodeGeeX2-6B").hover()
    # The list is drawn anew between press and release; the click is not lost, and other buttons still do not click.
    for button in ("right", "left"):
        page.mouse.down(button=button)
        page.evaluate(
            "() => { const list = document.querySelector('#cg-models ul'); list.innerHTML = list.innerHTML; }"
        )
        page.mouse.up(button=button)
    until(lambda: site.state()["loaded"] == [*before, "/models/other", "THUDM/codegeex2-6b"])
    page.locator("#cg-kept li", has_text="THUDM/chatglm2-6b").wait_for()
    page.fill(_SOURCE, "THUDM/chatglm3-6b")
    page.locator("#cg-model-needs", has_text="GB").wait_for()
    for answer in ("Cancel", "Delete"):
        assert kept.exists()
        page.click("#cg-kept button")
        page.locator("dialog", has_text="2.00 MB").get_by_role("button", name=answer).click()
        page.locator("dialog").wait_for(state="detached")
    page.locator("#cg-kept", has_text="No converted").wait_for()
    assert not kept.exists()
    page.click("#cg-doctor-run")
    page.locator("#cg-doctor dl").wait_for()
