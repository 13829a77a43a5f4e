"""From a ticket's blocking events to batches that a page can show at its own pace.

A page that redraws for every token spends more on drawing than the model on thinking, so
events are drained together, at most five times a second. Leaving the stream, for whatever
reason, cancels the ticket: nobody computes for a reader who is gone. It knows no components.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from chatglm_backend.core import Completed, Event, monotonic_clock
from chatglm_backend.ui.ports import Ticket

__all__ = ["Arrival", "batches"]


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event and when it came, in seconds of the clock: a batch is shown later than its events came."""

    at: float
    event: Event


_Item = Arrival | BaseException | None


async def batches(
    ticket: Ticket, *, min_interval_s: float = 0.2, heartbeat_s: float = 0.5
) -> AsyncGenerator[list[Arrival], None]:
    """Events in the order they came, in lists at least ``min_interval_s`` apart; an empty list when nothing
    happened for ``heartbeat_s``. The last batch, or one that ends the stream, comes at once.

    Raises:
        ChatGLMError: whatever the ticket's events raise, after the events before it.
    """
    items: asyncio.Queue[_Item] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    threading.Thread(target=_pump, args=(ticket, loop, items), name="page-events", daemon=True).start()
    try:
        while True:
            batch, end = await _collect(items, heartbeat_s)
            if batch or end is None:
                yield batch
            if isinstance(end, BaseException):
                raise end
            if end is True:
                return
            await asyncio.sleep(min_interval_s)
    finally:
        ticket.cancel()


async def _collect(
    items: asyncio.Queue[_Item], heartbeat_s: float
) -> tuple[list[Arrival], BaseException | bool | None]:
    """All events that are there, and how the stream goes on: ``None`` goes on, ``True`` ended, or an error."""
    try:
        item = await asyncio.wait_for(items.get(), heartbeat_s)
    except asyncio.TimeoutError:
        return [], None
    batch: list[Arrival] = []
    while True:
        if item is None:
            return batch, True
        if isinstance(item, BaseException):
            return batch, item
        batch.append(item)
        if isinstance(item.event, Completed):
            return batch, True
        try:
            item = items.get_nowait()
        except asyncio.QueueEmpty:
            return batch, None


def _pump(ticket: Ticket, loop: asyncio.AbstractEventLoop, items: asyncio.Queue[_Item]) -> None:
    def put(item: _Item) -> None:
        try:
            loop.call_soon_threadsafe(items.put_nowait, item)
        except RuntimeError:  # the page's loop has closed: the server is going down
            ticket.cancel()

    try:
        for event in ticket.events():
            put(Arrival(monotonic_clock(), event))
    except BaseException as error:  # noqa: BLE001  it is raised again where the page can show it
        put(error)
    else:
        put(None)
