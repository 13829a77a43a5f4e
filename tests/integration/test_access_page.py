"""The guard in front of the real page: every route that Gradio has, whatever its version adds."""

from __future__ import annotations

import asyncio
import gc
import re
import weakref
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from chatglm_backend.access.guard import route_closed
from chatglm_backend.settings import Settings
from chatglm_backend.testing import scripted_service
from chatglm_backend.ui.gradio_insides.session_owner import SessionOwner
from tests.gradio_loop import in_loop

TOKEN = "a-token-for-tests"  # noqa: S105
KEY = {"authorization": f"Bearer {TOKEN}"}
# What the page uses, and what does no harm to somebody who is signed in.
NEEDED = {
    "/", "/config", "/assets/{path:path}", "/static/{path:path}", "/favicon.ico", "/manifest.json", "/robots.txt",
    "/theme.css", "/login", "/logout", "/{page}", "/{page}/", "/gradio_api/api/{api_name}", "/gradio_api/app_id",
    "/gradio_api/call/v2/{api_name}", "/gradio_api/call/v2/{api_name}/{event_id}", "/gradio_api/call/{api_name}",
    "/gradio_api/call/{api_name}/{event_id}", "/gradio_api/cancel", "/gradio_api/heartbeat/{session_hash}",
    "/gradio_api/info", "/gradio_api/login_check", "/gradio_api/openapi.json", "/openapi.json",
    "/gradio_api/queue/data", "/gradio_api/queue/join", "/gradio_api/queue/status", "/gradio_api/reset",
    "/gradio_api/run/{api_name}", "/gradio_api/startup-events", "/gradio_api/theme.css",
    "/gradio_api/token", "/gradio_api/user",
}  # fmt: skip


@pytest.fixture(scope="module")
def app() -> Iterator[Any]:
    """The real application on a scripted model, with a token."""
    pytest.importorskip("gradio")
    from webui import create_app

    service = scripted_service()
    yield in_loop(lambda: create_app(service, Settings(token=TOKEN)))
    service.close()


@pytest.fixture(scope="module")
def gradio_paths(app: Any) -> list[str]:
    """All paths that the pages' own applications answer to."""
    page = next(iter(app.router.routes[-1].app._pages.values()))
    return sorted({path for path in _paths(page.router) if path})


def _paths(router: Any) -> Iterator[str]:
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            prefix = getattr(getattr(route, "include_context", None), "prefix", "")
            yield from (prefix + path for path in _paths(inner))
        else:
            yield getattr(route, "path", "")


def ask(app: Any, method: str, path: str, **options: Any) -> httpx.Response:
    """Send one request without a server."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            return await client.request(method, path, **options)

    return asyncio.run(asyncio.wait_for(send(), 20))


def test_no_route_of_gradio_answers_a_stranger(app: Any, gradio_paths: list[str]) -> None:
    """All of them, in each language, read or written."""
    assert len(gradio_paths) > 40
    for path in gradio_paths:
        filled = re.sub(r"\{[^}]*\}", "x", path)
        for prefix in ("", "/en", "/zh"):
            for method in ("GET", "POST", "HEAD", "DELETE"):
                if prefix + filled == "/":
                    continue
                status = ask(app, method, prefix + filled).status_code
                assert status in (401, 403), f"{method} {prefix}{filled} answered {status}"


def test_no_route_of_ours_answers_a_stranger(app: Any) -> None:
    """All that the application itself has, but the two that say how it is."""
    paths = {path for path in _paths(app.router) if path} - {"/health", "/ready"}
    assert {"/v1/models", "/v1/chat/completions", "/metrics", "/history/import", "/zh/history/export"} <= paths
    for path in paths:
        filled = re.sub(r"\{[^}]*\}", "x", path)
        for method in ("GET", "POST", "HEAD", "DELETE", "OPTIONS"):
            assert ask(app, method, filled).status_code == 401, f"{method} {filled}"


def test_every_route_of_gradio_is_needed_or_closed(gradio_paths: list[str]) -> None:
    """A new version's new routes must be looked at before they are let through; what is needed stays open."""
    assert not any(map(route_closed, NEEDED))
    open_paths = {path.rstrip("/") or "/" for path in gradio_paths if not route_closed(path)}
    assert open_paths - {path.rstrip("/") or "/" for path in NEEDED} == set()


def test_every_open_route_that_takes_a_number_asks_whose_it_is(gradio_paths: list[str]) -> None:
    """Gradio itself answers whoever knows a session's or an event's number."""
    passed: list[str] = []

    async def through(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
        passed.append(scope["path"])

    async def drop(message: Any) -> None:
        """Nobody looks at the refusal."""

    async def ask(owner: SessionOwner, visitor: str, path: str) -> None:
        scope = {"type": "http", "method": "GET", "headers": [], "client": (visitor, 1), "path": path}
        await owner(scope, None, drop)  # type: ignore[arg-type]

    numbered = {path for path in gradio_paths if re.search("session_hash|event_id", path) and not route_closed(path)}
    assert len(numbered) >= 3
    for path in numbered:
        owner = SessionOwner(through, lambda _, address: str(address))
        asyncio.run(ask(owner, "ann", "/zh/gradio_api/heartbeat/x"))
        asyncio.run(ask(owner, "bob", "/zh" + re.sub(r"\{[^}]*\}", "x", path)))
    assert set(passed) == {"/zh/gradio_api/heartbeat/x"}


def test_a_name_is_remembered_with_a_number_only() -> None:
    """Anybody can bring ever new names; those of one session are one text."""

    class Name(str):  # can be seen to go
        __slots__ = ("__weakref__",)

    names: list[weakref.ref[Name]] = []

    def visitor(*_: object) -> Name:
        name = Name("ann")
        names.append(weakref.ref(name))
        return name

    async def nothing(*_: Any) -> None:
        """Nobody looks at it."""

    async def ask(*paths: str) -> None:
        for path in paths:
            await owner({"type": "http", "method": "GET", "headers": [], "path": path}, nothing, nothing)

    owner = SessionOwner(nothing, visitor)
    asyncio.run(ask("/gradio_api/info", *["/gradio_api/heartbeat/x"] * 3))
    gc.collect()
    assert [name() for name in names] == [None, "ann", None, None]


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", 200),
        ("GET", "/config", 200),
        ("GET", "/v1/models", 200),
        ("GET", "/metrics", 200),
        ("POST", "/gradio_api/upload", 403),
        ("GET", "/v1/nothing", 404),
    ],
)
def test_with_the_token_the_page_and_the_endpoint_answer(app: Any, method: str, path: str, expected: int) -> None:
    """Side by side; what is closed stays closed."""
    assert ask(app, method, path, headers=KEY).status_code == expected


def test_the_page_runs_only_its_own_scripts(app: Any) -> None:
    """Its policy names hashes, and allows nothing else inline."""
    reply = ask(app, "GET", "/", headers={**KEY, "accept": "text/html", "accept-encoding": "gzip, br"})
    scripts = next(r for r in reply.headers["content-security-policy"].split("; ") if r.startswith("script-src"))
    assert "'sha256-" in scripts
    assert "unsafe-inline" not in scripts


def test_health_and_readiness_answer_strangers(app: Any) -> None:
    """With a word."""
    assert ask(app, "GET", "/health").json() == {"status": "ok"}
    assert ask(app, "GET", "/ready").json() == {"status": "ready"}
