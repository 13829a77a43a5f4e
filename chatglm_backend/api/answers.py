"""Sends what a ticket's log says, and ends the ticket when its client leaves or stalls.

Knows tickets and ASGI's messages, and nothing of the forms in which answers are sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatglm_backend.core import Completed, TokenEvent
from chatglm_backend.errors import EngineFailure
from chatglm_backend.sentences import Sentence
from chatglm_backend.serving.ticket import Ticket


class ClientLeft(Exception):
    """Nobody waits for this answer any more."""


async def whole_answer(ticket: Ticket, receive: Receive) -> tuple[str, Completed]:
    """The whole text and the last event. Raises ClientLeft as soon as the client hangs up."""
    answer = asyncio.ensure_future(_collect(ticket))
    gone = asyncio.ensure_future(_until_gone(receive))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientLeft
        return answer.result()
    finally:
        ticket.cancel()  # here as well: a task that never began does not clean up
        await _end(answer, gone)


class EventStream(Response):
    """Sends ``parts`` as server-sent events; ends the ticket at once when the client leaves or takes nothing."""

    def __init__(self, ticket: Ticket, parts: AsyncGenerator[bytes, None], *, stall_s: float = 60.0) -> None:
        super().__init__(
            media_type="text/event-stream", headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )
        del self.headers["content-length"]
        self._ticket = ticket
        self._parts = parts
        self._stall_s = stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send until the end, or until nobody listens."""
        sending = asyncio.ensure_future(self._send_all(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        except (TimeoutError, asyncio.TimeoutError, OSError):
            return
        finally:
            self._ticket.cancel()
            await _end(sending, gone)

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._parts):
            async for part in self._parts:
                await self._send(send, {"type": "http.response.body", "body": part, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        await asyncio.wait_for(send(message), self._stall_s)


async def _collect(ticket: Ticket) -> tuple[str, Completed]:
    texts: list[str] = []
    async for batch in ticket.follow():
        for logged in batch:
            if isinstance(logged.event, (TokenEvent, Completed)):
                texts.append(logged.event.text)
            if isinstance(logged.event, Completed):
                return "".join(texts), logged.event
    raise EngineFailure(reason=Sentence("engine.broke_off"))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
