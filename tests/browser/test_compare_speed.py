"""Compare, Speed and Batch in a real browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser_helpers import Visit, until

pytestmark = pytest.mark.browser


def test_two_settings_side_by_side_and_one_stop(visit: Visit) -> None:
    """Each side obeys its own limit; Escape stops both; a reload shows both again."""
    page = visit.page
    visit.tab(2, "#cg-compare-prompt")
    page.fill("#cg-compare-prompt textarea", "What is AI?")
    for side in ("a", "b"):
        page.click(f"#cg-compare-settings-{side} > button")
        page.click(f"#cg-compare-figures-{side} > button")
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
    page.locator("#cg-compare-set-a", has_text="Max new tokens 3 · Temperature 0").wait_for()
    page.locator("#cg-compare-set-b", has_text="As typed · bigdl").wait_for()
    page.fill("#cg-compare-max-new-tokens-a input[type=number]", "500")
    page.fill("#cg-compare-prompt textarea", "slow")
    page.click("#cg-compare-generate")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side} .cg-status[data-phase=writing]").wait_for()
    page.keyboard.press("Escape")
    for side in ("a", "b"):
        page.locator(f"#cg-compare-status-{side}", has_text="Stopped").wait_for()
    until(lambda: [ticket["cancelled"] for ticket in visit.site.state()["tickets"][-2:]] == [True, True])
    written = [page.input_value(f"#cg-compare-output-{side} textarea") for side in ("a", "b")]
    page.reload()
    for side, text in zip(("a", "b"), written, strict=True):
        page.locator(f"#cg-compare-status-{side}", has_text="Stopped").wait_for()
        assert page.input_value(f"#cg-compare-output-{side} textarea") == text


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


def test_a_file_is_answered_line_by_line(visit: Visit) -> None:
    """A table with a template; stopped and gone on with after a reload; the answers can be saved."""
    page = visit.page
    visit.tab(5, "#cg-batch-start")
    table = "id,what\n" + "".join(f"{number},AI\n" for number in range(30))
    page.set_input_files("#cg-batch-input", {"name": "a.pdf", "mimeType": "text/plain", "buffer": b"x"})
    page.locator("#cg-batch-said", has_text="a.pdf cannot be used for a batch").wait_for()
    page.set_input_files("#cg-batch-input", {"name": "a.csv", "mimeType": "text/csv", "buffer": table.encode()})
    page.locator("#cg-batch-name", has_text="a.csv").wait_for()
    page.fill("#cg-batch-template textarea", "What is {what}?")
    page.locator("#cg-batch-preview", has_text="30 lines; the first one asks: What is AI?").wait_for()
    page.click("#cg-batch-start")
    page.locator("#cg-batch-status [role=progressbar]").wait_for()
    page.click("#cg-batch-stop")
    page.locator("#cg-batch-status", has_text="Stopped after").wait_for()
    page.reload()
    visit.tab(5, "#cg-batch-start")
    page.locator("#cg-batch-status", has_text="Stopped after").wait_for()
    assert page.input_value("#cg-batch-template textarea") == "What is {what}?"
    page.click("#cg-batch-start")
    page.locator("#cg-batch-status", has_text="30 lines answered, 0 failed").wait_for()
    with page.expect_download() as answers:
        page.click("#cg-batch-download a")
    lines = [json.loads(line) for line in Path(answers.value.path()).read_text(encoding="utf-8").splitlines()]
    assert sorted(int(line["custom_id"]) for line in lines) == list(range(30))
    assert (visit.foreign, visit.faults) == ([], [])
