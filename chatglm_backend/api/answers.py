"""Sends an answer, and ends it when its client leaves or stalls.

Knows ASGI's messages, and nothing of how answers are made or the forms in which they are sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientLeft(Exception):
    """Nobody waits for this answer any more."""


class EventStream(Response):
    """Sends ``parts`` as server-sent events; calls ``cancel`` at once when the client leaves or takes nothing."""

    def __init__(
        self, cancel: Callable[[], None], parts: AsyncGenerator[bytes, None], *, stall_s: float = 60.0
    ) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]
        self._cancel = cancel
        self._parts = parts
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send until the end, or until nobody listens."""
        with contextlib.suppress(ClientLeft, TimeoutError, asyncio.TimeoutError, OSError):
            await while_there(self._cancel, receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with contextlib.aclosing(self._parts):
            async for part in self._parts:
                await asyncio.wait_for(
                    send({"type": "http.response.body", "body": part, "more_body": True}), self._stall_s
                )
        await asyncio.wait_for(send({"type": "http.response.body", "body": b"", "more_body": False}), self._stall_s)


async def while_there(cancel: Callable[[], None], receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``; ``cancel`` is called at its end. Raises ClientLeft as soon as the client hangs up."""
    tasks = working, gone = asyncio.ensure_future(work), asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        cancel()  # here as well: a task that never began does not clean up
        working.cancel()
        gone.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
