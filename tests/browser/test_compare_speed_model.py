"""Compare, Speed and Model in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_helpers import Serve, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.timeout(150)]


def test_two_settings_side_by_side_and_one_stop(serve: Serve, visitor: Visitor) -> None:
    """Each side obeys its own limit; Escape stops both; the next comparison works."""
    site = serve("compare")
    page = visitor(site).page
    page.get_by_role("tab").nth(2).click()
    page.fill("#cg-compare-prompt textarea", "What is AI?")
    page.fill("#cg-compare-tokens-a input[type=number]", "3")
    page.locator("#cg-compare-kernel-b").get_by_label("bigdl-llm").check()
    page.locator("#cg-compare-format-b").get_by_label("As typed").check()
    page.press("#cg-compare-prompt textarea", "Control+Enter")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side} .cg-status[data-phase=done]").wait_for(timeout=15_000)
    assert page.input_value("#cg-compare-output-a textarea") == "AI is the"
    assert page.input_value("#cg-compare-output-b textarea") == "AI is the study of machines that learn."
    seen = site.state()
    assert sorted(zip(seen["kernels"][-2:], seen["formats"][-2:], strict=True)) == [("", "recipe"), ("bigdl", "raw")]
    shown = [page.inner_text(f"#cg-compare-timing-{side} [data-figure=kernel] dd") for side in ("a", "b")]
    assert shown == ["vnni", "bigdl"]
    page.fill("#cg-compare-tokens-a input[type=number]", "500")
    page.fill("#cg-compare-prompt textarea", "slow")
    page.click("#cg-compare-generate")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side} .cg-status[data-phase=writing]").wait_for(timeout=15_000)
    page.keyboard.press("Escape")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side}", has_text="Stopped").wait_for(timeout=5_000)
    assert [ticket["cancelled"] for ticket in site.state()["tickets"][-2:]] == [True, True]


def test_a_speed_test_ends_with_plots_and_files(serve: Serve, visitor: Visitor) -> None:
    """Both files can be saved, and the page fetched nothing from elsewhere."""
    visit = visitor(serve("compare"))
    page = visit.page
    page.get_by_role("tab").nth(3).click()
    page.click("#cg-speed-start")
    page.locator("#cg-speed-download a").wait_for(timeout=60_000)
    assert page.locator("#cg-speed-plots svg").count() == 2
    with page.expect_download() as json_file:
        page.click("#cg-speed-download a")
    assert json_file.value.suggested_filename == "chatglm-speed.json"
    with page.expect_download() as picture:
        page.click("#cg-speed-download button")
    assert Path(picture.value.path()).read_bytes().startswith(b"\x89PNG")
    assert (visit.foreign, visit.faults) == ([], [])


def test_what_is_kept_is_listed_and_deleted_after_a_question(serve: Serve, visitor: Visitor, tmp_path: Path) -> None:
    """Keep leaves it, Delete removes it; needs and the doctor's report are shown."""
    kept = tmp_path / "hub" / "models--THUDM--chatglm2-6b"
    (kept / "blobs").mkdir(parents=True)
    (kept / "blobs" / "x").write_bytes(b"x" * 2_000_000)
    cache = str(tmp_path / "cache")
    page = visitor(serve("ready", HF_HUB_CACHE=str(tmp_path / "hub"), CHATGLM_CACHE=cache)).page
    page.get_by_role("tab").nth(4).click()
    page.locator("#cg-kept td", has_text="THUDM/chatglm2-6b").wait_for(timeout=15_000)
    page.fill("#cg-model-source input, #cg-model-source textarea", "THUDM/chatglm3-6b")
    page.locator("#cg-model-needs", has_text="GB").wait_for(timeout=15_000)
    for answer in ("no", "yes"):
        page.click("#cg-kept-name input")
        page.get_by_role("option", name="THUDM/chatglm2-6b").click()
        page.click("#cg-kept-delete")
        page.click(f"#cg-kept-{answer}")
        page.locator("#cg-kept-yes").wait_for(state="hidden", timeout=15_000)
        assert kept.exists() is (answer == "no")
    page.locator("#cg-kept", has_text="No converted").wait_for(timeout=15_000)
    page.click("#cg-doctor-run")
    page.locator("#cg-doctor dl").wait_for(timeout=60_000)
