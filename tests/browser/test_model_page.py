"""The Model page in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_helpers import Serve, Site, Visitor, until
from chat_steps import say

pytestmark = pytest.mark.browser

_SOURCE = "#cg-model-source :is(input, textarea)"


def test_another_model_is_loaded_with_progress_and_the_conversation_stays(serve: Serve, visitor: Visitor) -> None:
    """Facts, progress, cancel; the page needs no restart and what was said remains."""
    site = serve("loading")
    site.end_loading()
    visit = visitor(site)
    before = len(site.state()["loaded"])
    visit.page.locator(".cg-model[data-state=ready]").wait_for()
    visit.send("What is AI?")
    visit.answered("AI is the study of machines that learn.")
    visit.tab(4, "#cg-model-facts dl")
    assert "scripted-chatglm" in visit.page.inner_text("#cg-model-facts")
    visit.page.fill(_SOURCE, "/models/other")
    site.hold_loading()
    visit.page.click("#cg-model-load")
    visit.page.locator(".cg-model[data-state=loading] [role=progressbar]").wait_for()
    visit.page.click("#cg-model-cancel")
    visit.page.locator(".cg-model[data-state=none]").wait_for()
    site.end_loading()
    visit.page.click("#cg-model-load")
    visit.page.locator(".cg-model[data-state=ready]").wait_for()
    assert site.state()["loaded"][before:] == ["/models/other", "/models/other"]
    visit.tab(1, "#cg-prompt")
    assert visit.output() == "AI is the study of machines that learn."


@pytest.mark.parametrize("width", [1280, 360])
def test_the_notice_of_the_demo_leads_to_the_models_and_goes_away(serve: Serve, visitor: Visitor, width: int) -> None:
    """One line, a button to the Model page, and one that puts it away for good in this browser.

    With it, what a conversation can begin with, and the line under an answer, stand above the message box.
    """
    visit = visitor(serve("demo"), width=width, fresh=True)
    page = visit.page

    def is_above_the_box(part: str) -> bool:
        below, above = (page.locator(one).bounding_box() for one in ("#cg-chat-composer", part))
        return bool(above["y"] + above["height"] <= below["y"])

    note = page.locator(".cg-demo")
    assert "not a real ChatGLM" in note.inner_text()
    until(lambda: is_above_the_box("#cg-chat-presets"))
    say(visit, "What is AI?")
    until(lambda: is_above_the_box("#cg-chat-status"))
    page.click(".cg-demo [data-action=model]")
    page.locator("#cg-model-source").wait_for()
    assert page.locator("[role=tab][aria-selected=true]").get_attribute("data-tab-id") == "model"
    page.click(".cg-demo [data-action=dismiss]")
    note.wait_for(state="hidden")
    page.reload()
    page.locator(".cg-model[data-state=ready]").wait_for()
    assert not note.is_visible()


@pytest.fixture(scope="module")
def shared(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Path]:
    """A page that other machines reach, and a folder of the hub's cache that it may delete."""
    hub = tmp_path_factory.mktemp("hub")
    kept = hub / "models--THUDM--chatglm2-6b"
    (kept / "blobs").mkdir(parents=True)
    (kept / "blobs" / "x").write_bytes(b"x" * 2_000_000)
    return serve("shared", HF_HUB_CACHE=str(hub), CHATGLM_CACHE=str(tmp_path_factory.mktemp("cache"))), kept


def test_on_a_shared_page_only_the_computer_itself_loads(shared: tuple[Site, Path], visitor: Visitor) -> None:
    """The server refuses others, whatever the buttons look like; the same page lets its own computer."""
    site, kept = shared
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
    near.page.fill(_SOURCE, "/models/other")
    near.page.press(_SOURCE, "Enter")
    until(lambda: site.state()["loaded"] == [*before, "/models/other"])
    near.page.get_by_role("button", name="Download CodeGeeX2-6B").click()
    until(lambda: site.state()["loaded"] == [*before, "/models/other", "THUDM/codegeex2-6b"])
    assert kept.exists()


def test_what_is_kept_is_listed_and_deleted_after_a_question(shared: tuple[Site, Path], visitor: Visitor) -> None:
    """Keep leaves it, Delete removes it; needs and the doctor's report are shown."""
    site, kept = shared
    visit = visitor(site)
    page = visit.page
    visit.tab(4, "#cg-model-source")
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
