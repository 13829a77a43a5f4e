"""Reads a request's body before the application sees it: not too large, not too slowly. Knows no policy."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from chatglm_backend.access.asgi import Headers


class BodyRefused(Exception):
    """Too large, or too slow. Its arguments are those of :func:`~chatglm_backend.access.asgi.error_reply`."""


def has_body(headers: Headers) -> bool:
    """Whether a body follows."""
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


async def read_body(scope: Scope, receive: Receive, headers: Headers, *, limit: int, timeout_s: float) -> bytes:
    """The whole body, at most ``limit`` bytes. Raises BodyRefused, or starlette's ClientDisconnect."""
    declared = headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()) or len(declared) > 12 or int(declared) > limit:
        raise _too_large(limit)
    try:
        return await asyncio.wait_for(_collect(scope, receive, limit), timeout_s)
    except (TimeoutError, asyncio.TimeoutError) as error:
        message = f"The request did not arrive within {timeout_s:.0f} seconds."
        raise BodyRefused(408, "body_too_slow", message, {"connection": "close"}) from error


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` first, and then whatever else happens."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _collect(scope: Scope, receive: Receive, limit: int) -> bytes:
    body = bytearray()
    async for part in Request(scope, receive).stream():
        body += part
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> BodyRefused:
    return BodyRefused(413, "body_too_large", f"The request is larger than {limit} bytes.")
