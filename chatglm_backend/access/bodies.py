"""Reads a request's body before the application sees it: not too large, not too slowly. Ends a connection on which a
body was left unread. Knows no policy.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

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


class UnreadBody:
    """``receive`` and ``send`` of one request: a reply that is sent before its body was read is the connection's last.

    For ``drain_s`` seconds the rest is read and dropped: closing at once would reset the connection, and could take the
    reply away from the client.
    """

    drain_s = 2.0

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._read = False

    async def receive(self) -> Message:
        """One more part of the body."""
        message = await self._receive()
        self._read = message["type"] != "http.request" or not message.get("more_body")
        return message

    async def send(self, message: Message) -> None:
        """One part of the reply."""
        if not self._read and message["type"] == "http.response.start":
            others = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
            message = {**message, "headers": [*others, (b"connection", b"close")]}
        elif not self._read and not message.get("more_body"):
            await self._send({**message, "more_body": True})
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                await asyncio.wait_for(self._drop(), self.drain_s)
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _drop(self) -> None:
        while not self._read:
            await self.receive()


async def _collect(scope: Scope, receive: Receive, limit: int) -> bytes:
    body = bytearray()
    async for part in Request(scope, receive).stream():
        body += part
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


def _too_large(limit: int) -> BodyRefused:
    return BodyRefused(413, "body_too_large", f"The request is larger than {limit} bytes.")
