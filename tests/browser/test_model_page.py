"""The Model page in a real browser."""

from __future__ import annotations

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
