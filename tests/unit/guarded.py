"""An application behind the guard, and requests to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatglm_backend.access.guard import Guard
from chatglm_backend.access.policy import AccessPolicy

TOKEN = "a-token-for-tests"  # noqa: S105
KEY = {"authorization": f"Bearer {TOKEN}"}
PRIVATE = AccessPolicy(bind_host="0.0.0.0", required=True, token=TOKEN, any_address=True)  # noqa: S104
LOCAL = AccessPolicy()
GRADIO = "/gradio_api/"


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Says that it was reached, and how large the body was."""
    size = 0
    if scope["method"] == "POST":
        message = await receive()
        size = len(message.get("body", b""))
    kind = b"text/html" if scope["path"] == "/page" else b"text/plain"
    body = b"<script>run()</script>" if scope["path"] == "/page" else f"reached {size}".encode()
    foreign = (b"access-control-allow-origin", b"http://elsewhere")
    weak = (b"content-security-policy", b"script-src 'unsafe-inline'")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind), foreign, weak]})
    await send({"type": "http.response.body", "body": body})


def ask(guard: Guard | AccessPolicy, path: str = "/config", **how: Any) -> Reply:
    """Send one request through a guard."""
    return asyncio.run(sent_through(guard, path, **how))


async def sent_through(
    guard: Guard | AccessPolicy,
    path: str = "/config",
    *,
    method: str = "GET",
    query: str = "",
    headers: Mapping[str, str] | None = None,
    parts: tuple[bytes, ...] = (),
    client: str = "192.168.1.9",
    root: str = "",
) -> Reply:
    """The reply to one request."""
    guard = guard if isinstance(guard, Guard) else Guard(application, guard)
    given = {"host": "127.0.0.1:7860", **(headers or {})}
    if parts and "content-length" not in given:
        given["transfer-encoding"] = "chunked"
    left = list(parts)
    sent: list[Any] = []

    async def receive() -> Any:
        if not left and sent:
            return {"type": "http.disconnect"}
        if not left:
            await asyncio.sleep(30)
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": root + path,
        "raw_path": (root + path).encode(),
        "root_path": root,
        "query_string": query.encode(),
        "headers": [(k.encode(), v.encode()) for k, v in given.items() if v],
        "client": (client, 1),
        "scheme": "http",
    }
    await guard(scope, receive, send)
    if not sent:
        return Reply(0, {}, b"")
    found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
    return Reply(sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:]))


def cookie_of(guard: Guard) -> dict[str, str]:
    """Sign in by the link and return the cookie's header."""
    line = ask(guard, "/", query=f"token={TOKEN}").headers["set-cookie"]
    return {"cookie": "other=1; " + line.split(";")[0]}
