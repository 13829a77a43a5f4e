"""Compare and Speed in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_helpers import Visit, until

pytestmark = pytest.mark.browser


def test_two_settings_side_by_side_and_one_stop(visit: Visit) -> None:
    """Each side obeys its own limit; Escape stops both; the next comparison works."""
    page = visit.page
    visit.tab(2, "#cg-compare-prompt")
    page.fill("#cg-compare-prompt textarea", "What is AI?")
    page.fill("#cg-compare-max-new-tokens-a input[type=number]", "3")
    page.locator("#cg-compare-kernel-b").get_by_label("bigdl-llm").check()
    page.locator("#cg-compare-format-b").get_by_label("As typed").check()
    page.press("#cg-compare-prompt textarea", "Control+Enter")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side} .cg-status[data-phase=done]").wait_for()
    until(lambda: page.input_value("#cg-compare-output-a textarea") == "AI is the")
    until(lambda: page.input_value("#cg-compare-output-b textarea") == "AI is the study of machines that learn.")
    seen = visit.site.state()
    assert sorted(zip(seen["kernels"][-2:], seen["formats"][-2:], strict=True)) == [("", "recipe"), ("bigdl", "raw")]
    shown = [page.inner_text(f"#cg-compare-timing-{side} [data-figure=kernel] dd") for side in ("a", "b")]
    assert shown == ["vnni", "bigdl"]
    page.fill("#cg-compare-max-new-tokens-a input[type=number]", "500")
    page.fill("#cg-compare-prompt textarea", "slow")
    page.click("#cg-compare-generate")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side} .cg-status[data-phase=writing]").wait_for()
    page.keyboard.press("Escape")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side}", has_text="Stopped").wait_for()
    until(lambda: [ticket["cancelled"] for ticket in visit.site.state()["tickets"][-2:]] == [True, True])


def test_a_speed_test_ends_with_plots_and_files(visit: Visit) -> None:
    """Both files can be saved, and the page fetched nothing from elsewhere."""
    page = visit.page
    visit.tab(3, "#cg-speed-start")
    page.click("#cg-speed-start")
    page.locator("#cg-speed-download a").wait_for()
    assert page.locator("#cg-speed-plots svg").count() == 2
    with page.expect_download() as json_file:
        page.click("#cg-speed-download a")
    assert json_file.value.suggested_filename == "chatglm-speed.json"
    with page.expect_download() as picture:
        page.click("#cg-speed-download button")
    assert Path(picture.value.path()).read_bytes().startswith(b"\x89PNG")
    assert (visit.foreign, visit.faults) == ([], [])
