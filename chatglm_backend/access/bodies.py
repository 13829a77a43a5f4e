"""Reads a request's body before the application sees it: not too large, not too slowly. Knows no policy."""

from __future__ import annotations

import asyncio

from chatglm_backend.access.asgi import Headers, Message, Receive

__all__ = ["BodyTooLarge", "BodyTooSlow", "ClientGone", "has_body", "read_body", "replay"]


class BodyTooLarge(Exception):
    """More bytes than allowed."""


class BodyTooSlow(Exception):
    """It did not arrive in time."""


class ClientGone(Exception):
    """The client left before the body's end."""


def has_body(headers: Headers) -> bool:
    """Whether a body follows."""
    return "transfer-encoding" in headers or headers.get("content-length", "0").strip("0") != ""


async def read_body(receive: Receive, headers: Headers, *, limit: int, timeout_s: float) -> bytes:
    """The whole body, at most ``limit`` bytes. Raises BodyTooLarge, BodyTooSlow or ClientGone."""
    declared = headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()) or len(declared) > 12 or int(declared) > limit:
        raise BodyTooLarge
    try:
        return await asyncio.wait_for(_collect(receive, limit), timeout_s)
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise BodyTooSlow from error


def replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` first, and then whatever else happens."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _collect(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLarge
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)
