"""Follows a ticket from the event loop, and ends it when its client leaves, stalls or the time is up.

Knows tickets and ASGI's messages, and nothing of the forms in which answers are sent.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chatglm_backend.api.ports import Ticket
from chatglm_backend.core import Completed, Event, FinishReason, TokenEvent
from chatglm_backend.errors import EngineFailure

__all__ = ["ClientLeft", "EventStream", "follow", "whole_answer"]

_Item = Event | BaseException | None


class ClientLeft(Exception):
    """Nobody waits for this answer any more."""


async def follow(
    ticket: Ticket, *, timeout_s: float = 0.0, heartbeat_s: float = 10.0
) -> AsyncGenerator[Event | None, None]:
    """Events as they come, ``None`` when none came for ``heartbeat_s``; ends the ticket however it is left.

    After ``timeout_s`` (0: never) the ticket is told to end. Raises what the ticket's events raise.
    """
    loop, items = asyncio.get_running_loop(), asyncio.Queue[_Item]()
    threading.Thread(target=_pump, args=(ticket, loop, items), name="api-events", daemon=True).start()
    deadline = loop.call_later(timeout_s, ticket.cancel, FinishReason.TIMEOUT) if timeout_s else None
    try:
        while True:
            try:
                item = await asyncio.wait_for(items.get(), heartbeat_s)
            except (TimeoutError, asyncio.TimeoutError):
                yield None
                continue
            if isinstance(item, BaseException):
                raise item
            if item is None:
                raise EngineFailure(reason="the answer broke off")
            yield item
            if isinstance(item, Completed):
                return
    finally:
        if deadline is not None:
            deadline.cancel()
        ticket.cancel()


async def whole_answer(ticket: Ticket, receive: Receive, *, timeout_s: float) -> tuple[str, Completed]:
    """The whole text and the last event. Raises ClientLeft as soon as the client hangs up."""
    answer = asyncio.ensure_future(_collect(ticket, timeout_s))
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


async def _collect(ticket: Ticket, timeout_s: float) -> tuple[str, Completed]:
    texts: list[str] = []
    async with aclosing(follow(ticket, timeout_s=timeout_s)) as events:
        async for event in events:
            if isinstance(event, (TokenEvent, Completed)):
                texts.append(event.text)
            if isinstance(event, Completed):
                return "".join(texts), event
    raise EngineFailure(reason="the answer broke off")


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _pump(ticket: Ticket, loop: asyncio.AbstractEventLoop, items: asyncio.Queue[_Item]) -> None:
    def put(item: _Item) -> None:
        try:
            loop.call_soon_threadsafe(items.put_nowait, item)
        except RuntimeError:  # the loop has closed: the server is going down
            ticket.cancel()

    try:
        for event in ticket.events():
            put(event)
    except BaseException as error:  # noqa: BLE001  it is raised again where it can be told
        put(error)
    else:
        put(None)
