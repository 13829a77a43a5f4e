"""What a long Markdown answer costs on the Chat page: updates a second, bytes and browser time of one, as it grows.

The real application with a scripted model, the system's Chromium without a window, and its own counters: bytes
of the event stream as they arrive, seconds of the page's main thread.

    python -m benchmarks.long_answer --tokens 4000 --tokens-per-second 50
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import uvicorn
from playwright.sync_api import sync_playwright

from chatglm_backend.core import GenerationRequest
from chatglm_backend.network import quiet_environment
from chatglm_backend.service import Service
from chatglm_backend.settings import Settings
from chatglm_backend.testing import Script, ScriptedAnswer, ScriptedModel
from chatglm_backend.ui.listen import take_port
from webui import create_app

__all__ = ["main"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
_COUNTERS = ("TaskDuration", "ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
_WATCH = """window.longest = 0;
new PerformanceObserver((list) => list.getEntries().forEach((one) => {
  window.longest = Math.max(window.longest, one.duration);
})).observe({ type: "longtask" });"""
_SECTION = """## Part {n}: what a model reads

A *language model* reads {n} words and **guesses** the next one; 它一次写一个词。 The guess is a number for every
word, as in `logits[{n}]`, and the largest wins.

- First, words become numbers: `encode("text")`.
- Then layers mix them, with $a_{{i}} = \\sum_j w_{{ij}} x_j$.
- Last, a number becomes a word again.

```python
def step(model, ids, cache):
    logits = model(ids[-1:], cache)  # part {n}
    return int(logits.argmax())
```

| layer | rows | milliseconds |
|---|---|---|
| attention | {n} | 1.25 |
| products | {n} | 3.50 |

"""
_LIMIT_S = 240.0


class _LongAnswers(ScriptedModel):
    """Answers at full length, whatever the page's slider allows."""

    def prepare(self, request: GenerationRequest) -> ScriptedAnswer:
        params = replace(request.params, max_new_tokens=10**6)
        return ScriptedModel.prepare(self, replace(request, params=params))


@dataclass
class _Stream:
    """What came over the event stream so far."""

    size: int = 0
    updates: int = 0
    _known: set[str] = field(default_factory=set)
    _rest: dict[str, bytes] = field(default_factory=dict)

    def follow(self, devtools: Any) -> None:  # noqa: ANN401  Playwright's session
        """Count from now on."""

        def answered(event: dict[str, Any]) -> None:
            name = str(event["requestId"])
            if "/queue/data" in event["response"]["url"] and name not in self._known:
                self._known.add(name)
                devtools.send("Network.streamResourceContent", {"requestId": name})

        def received(event: dict[str, Any]) -> None:
            name = str(event["requestId"])
            if name in self._known and event.get("data"):
                self._count(name, base64.b64decode(event["data"]))

        devtools.on("Network.responseReceived", answered)
        devtools.on("Network.dataReceived", received)
        devtools.send("Network.enable")

    def _count(self, name: str, data: bytes) -> None:
        messages = (self._rest.get(name, b"") + data).split(b"\n\n")
        self._rest[name] = messages.pop()
        for message in messages:
            if b'"process_generating"' in message:
                self.updates += 1
                self.size += len(message) + 2


@dataclass(frozen=True, slots=True)
class _Moment:
    """All counters at once; ``browser`` in seconds of the main thread, ``server`` in seconds of this process."""

    at: float
    made: int
    updates: int
    bytes: int
    server: float
    browser: dict[str, float]
    longest_ms: float


def answer_pieces(tokens: int) -> tuple[str, ...]:
    """A Markdown answer in so many pieces of one to five characters."""
    text = "".join(_SECTION.format(n=n) for n in range(1, tokens // 40 + 2))
    return tuple(re.findall(r"\s+|[^\s]{1,5}[ ]?", text)[:tokens])


@contextmanager
def _served(pieces: tuple[str, ...], delay_s: float) -> Iterator[tuple[str, _LongAnswers]]:
    model = _LongAnswers(fallback=Script(pieces, delay_s=delay_s))
    with tempfile.TemporaryDirectory() as data:
        app = create_app(Service(loader=model, env={}), Settings(data=data))
        listener = take_port("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.1)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", model
        finally:
            server.should_exit = True
            thread.join(20)


def _moment(page: Any, devtools: Any, stream: _Stream, made: int) -> _Moment:  # noqa: ANN401
    found = {one["name"]: float(one["value"]) for one in devtools.send("Performance.getMetrics")["metrics"]}
    longest = float(page.evaluate("() => { const was = window.longest; window.longest = 0; return was; }"))
    browser = {name: found[name] for name in _COUNTERS}
    return _Moment(time.perf_counter(), made, stream.updates, stream.size, time.process_time(), browser, longest)


def measure(tokens: int, rate: float) -> list[_Moment]:
    """One answer; the counters at each quarter thousand of its tokens."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    with _served(answer_pieces(tokens), 1 / rate) as (url, model), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en-US")
        devtools, stream = page.context.new_cdp_session(page), _Stream()
        stream.follow(devtools)
        devtools.send("Performance.enable")
        page.add_init_script(_WATCH)
        page.goto(url)
        page.get_by_role("tab").nth(1).click()
        box = page.locator("#cg-chat-box textarea")
        box.wait_for(timeout=60_000)
        page.wait_for_timeout(2000)
        box.fill("Explain it at length")
        box.press("Enter")
        moments: list[_Moment] = []
        until = time.perf_counter() + _LIMIT_S
        while time.perf_counter() < until and (not moments or moments[-1].made < tokens):
            page.wait_for_timeout(50)
            made = model.answers[-1].made if model.answers else 0
            if made and (not moments or made >= min(tokens, len(moments) * 250)):
                moments.append(_moment(page, devtools, stream, made))
        browser.close()
    return moments


def table(moments: list[_Moment], tokens: int) -> str:
    """The first, the middle and the last thousand tokens, a row each."""
    lines = [
        "| tokens | updates/s | bytes an update | main thread, ms an update | script | layout | longest | server |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for begin in (0, (tokens - 1000) // 2, tokens - 1000):
        inside = [one for one in moments if one.made >= begin and one.made < begin + 1000 + 250]
        first = inside[0]
        last = next((one for one in inside if one.made >= begin + 1000), inside[-1])
        updates = max(1, last.updates - first.updates)
        spent = {name: 1000 * (last.browser[name] - first.browser[name]) / updates for name in _COUNTERS}
        longest = max(one.longest_ms for one in inside if first.made < one.made <= last.made)
        lines.append(
            f"| {first.made}-{last.made} | {updates / (last.at - first.at):.1f} "
            f"| {(last.bytes - first.bytes) / updates:.0f} | {spent['TaskDuration']:.1f} "
            f"| {spent['ScriptDuration']:.1f} | {spent['LayoutDuration'] + spent['RecalcStyleDuration']:.1f} "
            f"| {longest:.0f} | {1000 * (last.server - first.server) / updates:.1f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure one answer and print the table."""
    parser = argparse.ArgumentParser(description="What a long answer costs on the Chat page, as it grows.")
    parser.add_argument("--tokens", type=int, default=4000, help="at least 1000")
    parser.add_argument("--tokens-per-second", type=float, default=50.0)
    options = parser.parse_args()
    quiet_environment(os.environ)
    moments = measure(max(1000, options.tokens), options.tokens_per_second)
    if moments[-1].made < options.tokens:
        print(f"Only {moments[-1].made} tokens came within {_LIMIT_S:.0f} s.")
        return 1
    print(table(moments, options.tokens))
    return 0


if __name__ == "__main__":
    sys.exit(main())
