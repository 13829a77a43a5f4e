"""The real page in the system's Chromium, on scripted services that listen on this machine only."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from browser_helpers import PATIENCE_S, Serve, Site, Visit, Visitor, free_port
from chat_steps import open_chat

from tests.browser.serve import main

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: install requirements-dev.txt"
)

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The browser finds no host but this one.
    "--host-resolver-rules=MAP chatglm-demo.lan 127.0.0.1,MAP * ~NOTFOUND,EXCLUDE 127.0.0.1",
)


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Start a page: ``serve(scenario)``; the same scenario is shared unless it has an environment of its own.

    Each is forked from a process that has imported everything. Tests share where they can: each visitor has
    conversations of their own.
    """
    running: dict[str, Site] = {}
    started: list[Site] = []

    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tests.browser.imported"])

    def start(scenario: str = "ready", **environment: str) -> Site:
        if scenario in running and not environment:
            return running[scenario]
        port, data, files = free_port(), tmp_path_factory.mktemp(scenario), tmp_path_factory.mktemp("gradio")
        own = {"SCRIPTED_DATA": str(data), "GRADIO_TEMP_DIR": str(files), **environment}
        site = Site(
            f"http://127.0.0.1:{port}",
            partial(forks.Process, target=main, args=(port, scenario, own), daemon=True),
            data,
        )
        started.append(site)
        site.start()
        if not environment:
            running[scenario] = site
        return site

    yield start
    for site in started:
        site.end()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser: ``CHROMIUM``, or one on the path."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("no Chromium found: install one, or set CHROMIUM=/path/to/chromium")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visitor(chromium: Any) -> Iterator[Visitor]:
    """Open a page as a new visitor: ``visitor(site, language="zh-CN", width=360, scheme="dark", headers={})``."""
    contexts: list[Any] = []

    def visit(
        site: Site,
        *,
        language: str = "en-US",
        width: int = 1280,
        scheme: str = "light",
        headers: dict[str, str] | None = None,
        fresh: bool = False,
    ) -> Visit:
        context = chromium.new_context(
            locale=language,
            color_scheme=scheme,
            viewport={"width": width, "height": 900},
            extra_http_headers=headers or {},
        )
        context.set_default_timeout(PATIENCE_S * 1000)
        contexts.append(context)
        seen = Visit(context.new_page(), site)

        def note(request: Any) -> None:
            address = urlsplit(request.url)
            if address.scheme not in ("data", "blob") and address.netloc != urlsplit(site.url).netloc:
                seen.foreign.append(request.url)

        def forget(request: Any) -> None:
            if request.url in seen.foreign and "csp" in (request.failure or "").lower():
                seen.foreign.remove(request.url)  # the page's policy stopped it before it left

        context.on("request", note)
        context.on("requestfailed", forget)
        seen.page.on("pageerror", lambda error: seen.faults.append(str(error)))
        seen.page.goto(site.url)
        seen.page.locator("#cg-chat-box textarea").wait_for()
        if not fresh:
            seen.tab(1, "#cg-prompt textarea")
        return seen

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture
def visit(serve: Serve, visitor: Visitor) -> Visit:
    """The page that keeps no conversations, opened by a new visitor."""
    return visitor(serve())


@pytest.fixture
def chat(serve: Serve, visitor: Visitor) -> Visit:
    """Its Chat page, with which it opens."""
    return open_chat(visitor(serve(), fresh=True))


@pytest.fixture
def kept(serve: Serve, visitor: Visitor) -> Visit:
    """The Chat page of a server that keeps conversations."""
    return open_chat(visitor(serve("kept"), fresh=True))
