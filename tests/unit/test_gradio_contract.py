"""What ``ui/gradio_insides`` and the page's scripts and styles take for granted of Gradio, as read in Gradio 6.31.0.

A failure here means that a newer Gradio does something else: its message says what to look at.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from chatglm_backend.sentences import load_texts
from chatglm_backend.ui.gradio_insides.labels import own_labels
from tests.gradio_loop import in_loop

gr = pytest.importorskip("gradio")
pytest.importorskip("fastapi")

if TYPE_CHECKING:
    from starlette.testclient import TestClient

READ_IN = "6.31.0"


def changed(what: str) -> str:
    """The sentence of a failure."""
    return f"Gradio {gr.__version__} is not as {READ_IN} was: {what}"


def small_page(echo: Callable[[str], str] = str) -> Any:
    """Two components and one queued event."""
    with gr.Blocks(title="A & B", analytics_enabled=False) as page:
        box, answer = gr.Textbox(), gr.HTML("")
        box.submit(echo, box, answer, api_name="echo")
    return page


def served(echo: Callable[[str], str] = str) -> TestClient:
    """A page, mounted as ours are, in Chinese."""
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    from chatglm_backend.ui.gradio_insides.mounting import mount_pages

    app = FastAPI()
    in_loop(lambda: mount_pages(app, {"zh": small_page(echo)}))
    return TestClient(app, headers={"accept-language": "zh"})


@cache
def frontend() -> str:
    """All scripts and style sheets that Gradio's page may load, one after the other."""
    folder = Path(gr.__file__).parent / "templates" / "frontend"
    found = [*sorted((folder / "assets").glob("*.js")), *sorted((folder / "assets").glob("*.css"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in found)


def asset(name: str) -> str:
    """One of our own scripts or style sheets."""
    return (files("chatglm_backend.ui") / "assets" / name).read_text(encoding="utf-8")


def test_the_idle_queue_sleeps_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """``mounting``: the queue polls; ``sleep_when_free`` is how long it sleeps where there is nothing to do."""
    from fastapi import FastAPI
    from gradio import queueing

    from chatglm_backend.ui.gradio_insides.mounting import mount_pages

    page, slept = in_loop(small_page), []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        page._queue.stopped = True

    monkeypatch.setattr(queueing, "asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": sleep}))
    in_loop(lambda: mount_pages(FastAPI(), {"zh": page}))
    page._queue.stopped = False
    asyncio.run(page._queue.start_processing())
    assert slept == [0.01], changed("the queue no longer polls as `sleep_when_free` says; see mounting.py")


def test_no_statistics_are_made_of_events() -> None:
    """``mounting``: the queue keeps as many events for them, and makes them after so many, as it is told."""
    from fastapi import FastAPI
    from gradio.data_classes import PredictBodyInternal

    from chatglm_backend.ui.gradio_insides.mounting import mount_pages

    page = in_loop(small_page)
    in_loop(lambda: mount_pages(FastAPI(), {"zh": page}))
    queue, (number,) = page._queue, page.fns
    queue.create_event_queue_for_fn(page.fns[number])

    async def press() -> None:
        for session in "ab":
            body = PredictBodyInternal(session_hash=session, fn_index=number, data=["x"])
            assert (await queue.push(body, None, None))[0]

    asyncio.run(press())
    assert len(queue.event_analytics) == 1, changed("it keeps events for its statistics; see mounting.py")
    unreadable = [object()]
    told = "it makes statistics after every event; see mounting.py"
    assert queue.compute_analytics_summary(unreadable) == {"functions": {}}, changed(told)


def test_mounting_ends_with_a_route_that_can_be_taken_out() -> None:
    """``mounting``: the last route is the mounted application; it shares its holder of sessions with the page."""
    from fastapi import FastAPI

    app, page = FastAPI(), in_loop(small_page)
    in_loop(lambda: gr.mount_gradio_app(app, page, path="/zh", ssr_mode=False))
    mounted = getattr(app.router.routes[-1], "app", None)
    told = "mount_gradio_app no longer appends one Mount with the application in `app`; see mounting.py"
    assert hasattr(mounted, "state_holder"), changed(told)
    assert mounted.state_holder is page.state_holder, changed("page and application hold different sessions")


def test_the_session_holder_is_as_its_replacement_expects() -> None:
    """``sessions``: the attributes that it reads and writes, and that every access calls ``update``."""
    from gradio.state_holder import StateHolder

    called: list[str] = []

    class Watched(StateHolder):  # type: ignore[misc]
        def update(self, session_id: str) -> None:
            called.append(session_id)

    holder = Watched()
    holder.set_blocks(in_loop(small_page))
    session = holder["a"]
    assert called == ["a"], changed("StateHolder.__getitem__ no longer calls update(); see sessions.py")
    assert session.is_closed is False, changed("a session no longer says is_closed")
    assert list(holder.session_data) == ["a"], changed("sessions are no longer kept in session_data")
    assert isinstance(holder.time_last_used["a"], dt.datetime), changed("time_last_used holds no datetimes")
    assert holder.time_last_used["a"].tzinfo is None, changed("time_last_used has a zone now; see Sessions._closed")
    with holder.lock:
        holder.session_data.move_to_end("a")


def test_the_served_html_can_be_rewritten() -> None:
    """``html``: what is replaced is there; then the document has our language, title and script, nothing foreign."""
    page = (Path(gr.__file__).parent / "templates" / "frontend" / "index.html").read_text(encoding="utf-8")
    assert page.count("<head>") == 1, changed("<head> does not stand once in its HTML; see polish_html")
    assert page.find('lang="en"') in range(page.find("<head>")), changed('<html> has no lang="en"; see polish_html')
    reply = served().get("/", headers={"accept-encoding": "gzip, br", "accept": "text/html"})
    assert "content-encoding" not in reply.headers, changed(
        "it compresses its HTML; HtmlReply would pass it on as it is"
    )
    html = reply.text
    assert 'lang="zh-CN"' in html
    assert html.index("<title>A &amp; B</title>") < html.index("<script>Object.defineProperty(navigator")
    assert html.index("Object.defineProperty(navigator") == html.index("<script") + len("<script>")
    foreign = re.findall(r"<(?:meta|link|script)[^>]*(?:https?:)?//[^>]*>", html)
    assert foreign == [], changed("its HTML names other hosts; see _PREVIEW in html.py")
    assert "default-src 'self'" in reply.headers["content-security-policy"]


def test_the_page_and_its_requests_stay_under_its_language() -> None:
    """``languages``: the page at ``/`` sends its own requests to ``/zh``, whatever the browser asks for then."""
    client = served()
    assert '"root":"http://testserver/zh"' in client.get("/").text, changed("it reads root_path otherwise now")
    assert client.get("/zh/config", headers={"accept-language": "en"}).json()["root"] == "http://testserver/zh"


def test_handlers_can_be_wrapped() -> None:
    """``handlers``: a page's events are in ``fns``, each with its function and its outputs."""
    events = [*in_loop(small_page).fns.values()]
    assert [callable(event.fn) for event in events] == [True], changed("Blocks.fns holds no events; see handlers.py")
    assert len(events[0].outputs) == 1, changed("an event's outputs are not in `outputs`; see handlers.py")


@pytest.mark.parametrize("path", ["api/echo", "run/echo"])
def test_events_are_not_carried_out_without_the_queue(path: str) -> None:
    """``mounting``: ``api_open=False`` closes the routes that go past the queue and its sessions."""
    called: list[str] = []

    def echo(text: str) -> str:
        called.append(text)
        return text

    reply = served(echo).post(f"/zh/gradio_api/{path}", json={"data": ["x"]})
    assert (reply.is_success, called) == (False, []), changed("api_open=False no longer closes the direct routes")


@pytest.mark.parametrize("body", [{"fn_index": -1}, {"fn_index": 2**70}, {"fn_index": 0, "session_hash": ""}])
@pytest.mark.parametrize("path", ["queue/join", "run/predict"])
def test_a_function_that_is_not_there_is_an_error_of_the_clients(path: str, body: dict[str, Any]) -> None:
    """``mounting``: Gradio itself ends such a request with an exception of its own."""
    reply = served().post(f"/zh/gradio_api/{path}", json={"data": ["x"], "session_hash": "s", **body})
    assert 400 <= reply.status_code < 500, changed("it looks functions up otherwise now; see mounting.py")
    if reply.status_code == 404 and body.get("session_hash") != "":
        assert reply.json()["detail"] == load_texts("zh")("page.not_there")


def test_no_unknown_route_takes_the_number_of_a_session_or_an_event() -> None:
    """Who checks whose a session or an event is must know every route that names one, in path, query or body."""
    spec = served().get("/zh/openapi.json").json()
    numbers = {"session_hash", "event_id"}

    def fields(schema: dict[str, Any]) -> set[str]:
        name = schema.get("$ref", "").rpartition("/")[2]
        return set(spec["components"]["schemas"].get(name, {}).get("properties", {}))

    found = set()
    for path, methods in spec["paths"].items():
        for method in methods.values():
            named = {one["name"] for one in method.get("parameters", ())}
            bodies = method.get("requestBody", {}).get("content", {}).values()
            if numbers & named.union(*(fields(body["schema"]) for body in bodies)):
                found.add(path.removeprefix("/gradio_api/").split("/")[0])
    known = {"api", "run", "call", "cancel", "deep_link", "heartbeat", "queue", "reset", "stream"}
    assert found == known, changed("other routes take session_hash or event_id now; see who may use them")


@pytest.mark.parametrize("path", ["monitoring", "monitoring/summary", "monitoring/x"])
def test_nobody_can_look_at_the_monitoring(path: str) -> None:
    """``mounting``: ``enable_monitoring=False`` closes the pages about all visitors' events."""
    assert served().get(f"/zh/{path}").status_code == 403, changed(f"/{path} is open; see mounting.py")


def test_gradios_own_labels_are_still_the_ones_that_are_replaced() -> None:
    """``labels``: each of the English labels stands in Gradio's scripts."""
    theirs = [*own_labels(load_texts("zh"))]
    # Before the colon of "bot's message: " stands a name that is put in there.
    gone = [label for label in theirs if label.removeprefix("bot").removeprefix("user") not in frontend()]
    assert gone == [], changed("these labels have other words now; see gradio.* in the catalogues")


@pytest.mark.parametrize(
    ("needed", "by"),
    [
        ("window.navigator.language", "polish_html, which sets it, so that Gradio speaks the page's language"),
        ("window.gradio_config", "connection.js, which reads root, api_prefix and app_id of it"),
        ("__theme", "page.js, which chooses light or dark by it while the page starts"),
        ("toast-body", "connection.js, which hides the English notice"),
        ("Connection Lost", "connection.js, which knows the English notice by it"),
    ],
)
def test_the_frontend_still_has_what_our_scripts_build_on(needed: str, by: str) -> None:
    """The page's own scripts use a few of Gradio's."""
    assert needed in frontend(), changed(f"`{needed}` is gone from its scripts; needed by {by}")


def test_our_page_can_ask_which_process_answers() -> None:
    """``connection.js``: the address of ``app_id``, and the same number in the page."""
    client = served()
    number = client.get("/zh/gradio_api/app_id").json().get("app_id")
    assert f'"app_id":{number}' in client.get("/").text, changed("app_id is not in the page; see connection.js")


def test_our_style_sheet_names_classes_that_gradio_has() -> None:
    """``page.css``: each class that is not ours stands in Gradio's scripts or styles."""
    rules = re.sub(r"\{[^{}]*\}", " ", re.sub(r"/\*.*?\*/", "", asset("page.css"), flags=re.DOTALL))
    names = {name for name in re.findall(r"\.([a-z][\w-]*)", rules) if not name.startswith("cg-")}
    gone = sorted(name for name in names if name not in frontend())
    assert gone == [], changed("these classes are gone; rules of page.css do nothing now")


def test_a_start_writes_no_stubs_and_makes_one_application_a_page() -> None:
    """Half of Gradio's import writes ``.pyi`` files beside its components, and each page had four applications."""
    script = """
import os, sys, tempfile
from collections import Counter
seen = Counter()
sys.addaudithook(lambda event, args: seen.update(stubs=event == "open" and str(args[0]).endswith(".pyi")))
from chatglm_backend.ui.gradio_insides.environment import gradio_environment
with gradio_environment(os.environ):
    import gradio as gr
    from fastapi import FastAPI
    from gradio.routes import App
    from chatglm_backend.ui.gradio_insides.mounting import mount_pages, no_spare_apps
    original = App.create_app
    App.create_app = staticmethod(lambda *a, **k: seen.update(apps=1) or original(*a, **k))
    with no_spare_apps(), gr.Blocks() as page:
        gr.Textbox()
    async def mount():
        mount_pages(FastAPI(), {"zh": page})
    import asyncio; asyncio.run(mount())
    gr.Blocks()
print(dict(seen), page.app.get_blocks() is page)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert said.stdout.split("\n")[0] == "{'stubs': 0, 'apps': 2} True", changed(f"{said.stdout}{said.stderr}")
