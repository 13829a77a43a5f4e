"""The real page in the system's Chromium, on scripted services that listen on this machine only."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser_helpers import Serve, Site, Visit, Visitor

playwright_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is missing: install requirements-dev.txt"
)

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP chatglm-demo.lan 127.0.0.1",
)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Start a page: ``serve(scenario)``; the same scenario is shared unless it has an environment of its own."""
    running: dict[str, Site] = {}
    started: list[Site] = []

    def start(scenario: str = "ready", **environment: str) -> Site:
        if scenario in running and not environment:
            return running[scenario]
        port = _free_port()
        script = Path(__file__).with_name("serve.py")
        process = subprocess.Popen(
            [sys.executable, str(script), str(port), scenario], env={**os.environ, **environment}
        )
        site = Site(f"http://127.0.0.1:{port}", process)
        started.append(site)
        _wait_until_open(site)
        if not environment:
            running[scenario] = site
        return site

    yield start
    for site in started:
        site.process.terminate()
    for site in started:
        try:
            site.process.wait(10)
        except subprocess.TimeoutExpired:  # noqa: PERF203
            site.process.kill()
            site.process.wait(5)


def _wait_until_open(site: Site) -> None:
    for _ in range(600):
        if site.process.poll() is not None:
            raise AssertionError(f"the page ended with {site.process.returncode}")
        try:
            site.state()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the page did not open within a minute")


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
    ) -> Visit:
        context = chromium.new_context(
            locale=language,
            color_scheme=scheme,
            viewport={"width": width, "height": 900},
            extra_http_headers=headers or {},
        )
        contexts.append(context)
        seen = Visit(context.new_page())

        def guard(route: Any) -> None:
            if route.request.url.startswith((site.url, "data:", "blob:")):
                route.continue_()
            else:
                seen.foreign.append(route.request.url)
                route.abort()

        context.route("**/*", guard)
        seen.page.on("pageerror", lambda error: seen.faults.append(str(error)))
        seen.page.goto(site.url)
        seen.page.locator("#cg-prompt textarea").wait_for(timeout=30_000)
        return seen

    yield visit
    for context in contexts:
        context.close()
