"""The Model page in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser_helpers import Serve, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]


def test_another_model_is_loaded_with_progress_and_the_conversation_stays(serve: Serve, visitor: Visitor) -> None:
    """Facts, progress, cancel; the page needs no restart and what was said remains."""
    site = serve("reloading")
    visit = visitor(site)
    visit.page.locator(".cg-model[data-state=ready]").wait_for(timeout=20_000)
    visit.send("What is AI?")
    visit.status("done")
    visit.page.get_by_role("tab").nth(4).click()
    assert "scripted-chatglm" in visit.page.inner_text("#cg-model-facts")
    visit.page.fill("#cg-model-source input, #cg-model-source textarea", "/models/other")
    visit.page.click("#cg-model-load")
    visit.page.locator(".cg-model[data-state=loading] [role=progressbar]").wait_for(timeout=5_000)
    visit.page.click("#cg-model-cancel")
    visit.page.locator(".cg-model[data-state=none]").wait_for(timeout=10_000)
    visit.page.click("#cg-model-load")
    visit.page.locator(".cg-model[data-state=ready]").wait_for(timeout=20_000)
    assert site.state()["loaded"][1:] == ["/models/other", "/models/other"]
    visit.page.get_by_role("tab").nth(0).click()
    assert visit.output() == "AI is the study of machines that learn."


def test_on_a_shared_page_only_the_computer_itself_loads_and_deletes(
    serve: Serve, visitor: Visitor, tmp_path: Path
) -> None:
    """The server refuses, whatever the buttons look like; the same page lets its own computer."""
    kept = tmp_path / "hub" / "models--THUDM--chatglm2-6b" / "blobs"
    kept.mkdir(parents=True)
    (kept / "x").write_bytes(b"x" * 2_000_000)
    site = serve(
        "ready", SCRIPTED_SETTINGS=json.dumps({"insecure_listen": True}), HF_HUB_CACHE=str(tmp_path / "hub"),
        CHATGLM_CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    far = visitor(site, headers={"X-Forwarded-For": "192.168.1.7"}).page
    far.get_by_role("tab").nth(4).click()
    far.locator("#cg-model-notice", has_text="shared").wait_for(timeout=15_000)
    assert far.locator("#cg-model-load").is_disabled()
    far.locator("#cg-kept td", has_text="chatglm2-6b").wait_for(timeout=15_000)
    assert far.locator("#cg-kept-delete").is_disabled()
    before = site.state()["loaded"]
    far.fill("#cg-model-source input, #cg-model-source textarea", "/models/other")
    far.press("#cg-model-source input, #cg-model-source textarea", "Enter")
    far.click("#cg-doctor-run")
    far.locator("#cg-doctor", has_text="shared").wait_for(timeout=15_000)
    assert far.locator("#cg-doctor dl").count() == 0
    assert site.state()["loaded"] == before
    near = visitor(site).page
    near.get_by_role("tab").nth(4).click()
    near.fill("#cg-model-source input, #cg-model-source textarea", "/models/other")
    near.press("#cg-model-source input, #cg-model-source textarea", "Enter")
    near.wait_for_timeout(1_000)
    assert site.state()["loaded"] == [*before, "/models/other"]
