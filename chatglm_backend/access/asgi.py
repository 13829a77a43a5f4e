"""The few shapes of ASGI that the guard needs: requests read, replies sent. Knows no policy."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

__all__ = [
    "ASGIApp",
    "Headers",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "error_body",
    "error_reply",
    "headers_of",
    "inner_path",
    "reply",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = dict[str, str]


def headers_of(scope: Scope) -> Headers:
    """Headers by lower-case name; repeated ones joined, cookies by semicolons."""
    found: Headers = {}
    for raw_name, raw_value in scope.get("headers", ()):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joint = "; " if name == "cookie" else ", "
        found[name] = f"{found[name]}{joint}{value}" if name in found else value
    return found


def inner_path(scope: Scope) -> str:
    """The path below the root path under which a proxy shows the server."""
    root, path = str(scope.get("root_path", "")), str(scope["path"])
    return (path[len(root) :] if root and path.startswith(root) else path) or "/"


async def reply(
    send: Send, status: int, body: bytes = b"", kind: str = "text/plain", headers: Iterable[tuple[str, str]] = ()
) -> None:
    """Send a whole reply that nothing may keep."""
    lines = [("content-type", kind), ("content-length", str(len(body))), ("cache-control", "no-store"), *headers]
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def error_reply(
    send: Send, status: int, code: str, message: str, headers: Iterable[tuple[str, str]] = ()
) -> None:
    """Send an error."""
    await reply(send, status, error_body(status, code, message), "application/json", headers)


def error_body(status: int, code: str, message: str) -> bytes:
    """An error in the form that OpenAI's clients read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
