"""The Prompt page as people use it, in a real browser."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from browser_helpers import Serve, Visit, Visitor, until

pytestmark = pytest.mark.browser


def _figure(visit: Visit, name: str) -> str:
    return str(visit.page.inner_text(f"[data-figure={name}] dd"))


def test_prompts_of_every_kind(visit: Visit) -> None:
    """Each sentence, figure and word of an answer is shown; everything comes from this machine."""
    visit.page.locator(".cg-model[data-state=ready]").wait_for()
    _wait_in_line(visit)
    _fail(visit)
    _write_html(visit)
    _write_much(visit)
    assert (visit.foreign, visit.faults) == ([], [])


def _wait_in_line(visit: Visit) -> None:
    """The places in the queue, then the figures and the exact prompt stand beside the text."""
    visit.site.hold()
    visit.send("queue")
    assert "position" in visit.status("queued")
    assert visit.output() == ""
    visit.site.release()
    assert "Finished after 2 tokens" in visit.status("done")
    visit.answered("my turn")
    visit.page.click("#cg-figures > button")
    until(lambda: visit.page.input_value("#cg-sent textarea") == "问：queue\n答：")
    assert _figure(visit, "inference_time").endswith((" s", " ms"))
    assert _figure(visit, "prompt_tokens") == "12"
    assert _figure(visit, "kernel") == "vnni"


def test_an_answer_is_stopped_in_three_ways(visit: Visit) -> None:
    """By Esc, by Clear and by Stop; each frees the engine."""
    _use_keys(visit)
    _clear(visit)
    _stop(visit)


def _stop(visit: Visit) -> None:
    """The engine ends within a moment of the click; the page is ready for more, three new tokens if three are asked."""
    visit.send("slow")
    visit.status("writing")
    until(lambda: "word5 " in visit.output())
    visit.page.click("#cg-stop")
    until(lambda: visit.site.ticket()["ended"])
    assert "Stopped" in visit.status("done")
    kept = visit.output()
    assert kept.startswith("word0 word1 ")
    assert visit.site.ticket()["cancelled"]
    visit.limit(3)
    visit.send("What is AI?")
    until(lambda: visit.output() == "AI is the")
    assert "3 new tokens" in visit.status("done")
    assert visit.site.state()["max_new_tokens"][-1] == 3


def _fail(visit: Visit) -> None:
    """The sentence appears, the text before it stays; the next prompt, an example that one clicks, works."""
    visit.send("broken")
    alert = visit.page.locator("#cg-answer-status .cg-alert")
    alert.wait_for()
    assert "Other requests go on; try again." in alert.inner_text()
    until(lambda: visit.output() == "half an answer")
    visit.page.fill("#cg-prompt textarea", "a draft")
    visit.page.click("button[data-fill='AI是什么？']")
    visit.page.keyboard.press("Control+z")
    assert visit.page.input_value("#cg-prompt textarea") == "a draft"
    visit.page.click("button[data-fill='AI是什么？']")
    visit.page.keyboard.press("Control+Enter")
    visit.answered("AI是人工智能的缩写，它让机器学会思考。")


def _write_html(visit: Visit) -> None:
    """Neither the answer nor the prompt can run anything."""
    visit.send("html <img src=x onerror=window.hacked=3>")
    visit.status("done")
    until(lambda: "<script>window.hacked=2</script>" in visit.output())
    assert visit.page.evaluate("window.hacked") is None


def test_leaving_a_page_that_keeps_nothing_frees_the_engine(visit: Visit) -> None:
    """A reload takes the answer up again; a page that does not come back ends it, and a fresh one answers again."""
    visit.limit(2048)
    visit.send("slow")
    visit.status("writing")
    visit.page.reload()
    visit.status("writing")
    until(lambda: visit.page.input_value("#cg-prompt textarea") == "slow")  # what was typed is there again
    assert not visit.site.ticket()["cancelled"]
    context = visit.page.context
    visit.page.close()
    until(lambda: visit.site.ticket()["ended"])
    assert visit.site.ticket()["cancelled"]
    visit.page = context.new_page()
    visit.page.goto(visit.site.url)
    visit.tab(1, "#cg-prompt textarea")
    visit.send("What is AI?")
    visit.answered("AI is the study of machines that learn.")


def _clear(visit: Visit) -> None:
    """Clear in mid-answer leaves an empty page, and it stays empty."""
    visit.send("slow")
    visit.status("writing")
    visit.page.click("#cg-clear")
    visit.status("idle")
    until(lambda: visit.site.ticket()["ended"])
    visit.page.wait_for_timeout(400)  # time for a late word to come
    assert visit.output() == ""
    assert visit.page.input_value("#cg-prompt textarea") == ""


def _use_keys(visit: Visit) -> None:
    """Enter breaks the line, a composing Ctrl+Enter sends nothing, Esc stops."""
    before = len(visit.site.state()["tickets"])
    visit.page.fill("#cg-prompt textarea", "not this")
    visit.page.press("#cg-prompt textarea", "Enter")
    visit.page.evaluate(
        "document.querySelector('#cg-prompt textarea').dispatchEvent(new KeyboardEvent('keydown',"
        "{key:'Enter',ctrlKey:true,isComposing:true,bubbles:true}))"
    )
    visit.send("slow")
    visit.status("writing")
    assert visit.site.state()["prompts"][before:] == ["slow"]
    visit.page.keyboard.press("Escape")
    assert "Stopped" in visit.status("done")


def test_language_and_theme_follow_the_browser_and_can_be_switched(serve: Serve, visitor: Visitor) -> None:
    """Chinese for a Chinese browser, dark for a dark system; after the switches English and light stay.

    So does what was typed.
    """
    visit = visitor(serve(), language="zh-CN", scheme="dark")
    assert visit.page.evaluate("document.body.classList.contains('dark')")
    visit.page.click("[data-action=theme]")
    assert not visit.page.evaluate("document.body.classList.contains('dark')")
    assert visit.page.inner_text("#cg-generate") == "生成"
    assert visit.page.evaluate("document.documentElement.lang").startswith("zh")
    visit.page.fill("#cg-prompt textarea", "half typed")
    visit.page.click("[data-action=language]")
    visit.page.locator("#cg-generate", has_text="Generate").wait_for()
    until(lambda: visit.page.input_value("#cg-prompt textarea") == "half typed")
    visit.page.reload()
    visit.page.locator("#cg-generate", has_text="Generate").wait_for()
    assert not visit.page.evaluate("document.body.classList.contains('dark')")


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_a_phone_shows_everything_without_sideways_scrolling(serve: Serve, visitor: Visitor, language: str) -> None:
    """At 360 pixels nothing is cut off, in either language, and the answer comes into sight."""
    visit = visitor(serve("demo"), language=language, width=360)
    visit.page.set_viewport_size({"width": 360, "height": 640})
    visit.send("What is AI?")
    visit.status("done")
    until(lambda: 0 <= visit.page.locator("#cg-output textarea").bounding_box()["y"] < 640 - 100)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert visit.page.locator("#cg-generate").bounding_box()["width"] >= 100


def test_loading_is_shown_and_an_early_prompt_is_answered(serve: Serve, visitor: Visitor) -> None:
    """The page opens while the model loads, says how far it is, and keeps the prompt for later."""
    site = serve("opening")
    visit = visitor(site)
    visit.page.locator(".cg-model[data-state=loading] [role=progressbar]").wait_for()
    visit.send("What is AI?")
    assert "Waiting for the model" in visit.status("loading")
    site.release()
    visit.answered("AI is the study of machines that learn.")
    visit.page.locator(".cg-model[data-state=ready]").wait_for()


def test_a_failed_loading_is_one_sentence_and_the_page_stays_usable(serve: Serve, visitor: Visitor) -> None:
    """What is missing is said in the visitor's language; buttons still work; a SOCKS proxy changes nothing."""
    visit = visitor(
        serve("failing", ALL_PROXY="socks5://127.0.0.1:1", HTTP_PROXY="http://127.0.0.1:1"), language="zh-CN"
    )
    failed = visit.page.locator(".cg-model[data-state=failed]")
    failed.wait_for()
    assert "缺少 /models/chatglm/pytorch_model.bin" in failed.inner_text()
    visit.send("AI是什么？")
    visit.page.locator("#cg-answer-status .cg-alert").wait_for()
    assert visit.page.locator("#cg-generate").is_enabled()


def _write_much(visit: Visit) -> None:
    """All of 800 tokens arrive, many to an update: drawing for each would take the browser longer than the model."""
    visit.limit(800)
    visit.page.evaluate(
        "window.seen=new Set();setInterval(()=>window.seen.add("
        "document.querySelector('#cg-output textarea').value.length),20)"
    )
    visit.send("long")
    visit.status("done")
    until(lambda: len(visit.output()) == 2 * 800)
    assert 2 <= visit.page.evaluate("window.seen.size") <= 100


def test_another_name_for_this_machine_is_refused(serve: Serve) -> None:
    """The guard stands before the whole page: a foreign host name gets nothing, in any language."""
    site = serve()
    for path in ("/", "/zh/config", "/en/gradio_api/info"):
        request = urllib.request.Request(f"{site.url}{path}", headers={"Host": "elsewhere.example"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 421
        refused.value.close()


def test_json_by_a_schema(serve: Serve, visitor: Visitor) -> None:
    """A switch with a name and a box; a bad schema is a sentence in the page's language, an empty box any object."""
    visit = visitor(serve(), language="zh-CN")
    visit.page.click("#cg-json button")
    visit.page.get_by_role("checkbox", name="以 JSON 回答").check()
    visit.page.get_by_label("JSON schema").fill("{")
    visit.send("What is AI?")
    alert = visit.page.locator("#cg-answer-status .cg-alert")
    alert.wait_for()
    assert "这个 JSON schema 无法使用：它不是有效的 JSON" in alert.inner_text()
    visit.page.get_by_label("JSON schema").fill(" ")
    visit.send("What is AI?")
    visit.answered("AI is the study of machines that learn.")
