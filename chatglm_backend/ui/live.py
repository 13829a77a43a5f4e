"""Answers that go on without their page for a while, and pages that come back to them.

An answer is driven by a task of its own; pages watch it. When the last one has gone, the answer is
stopped after the grace period, unless its owner comes back first. It knows no components, no model
and no store: items pass through as they are, and only the newest is remembered.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

__all__ = ["LiveAnswers"]

T = TypeVar("T")


class LiveAnswers(Generic[T]):
    """All running answers of one page. ``grace_s`` is how long one goes on unwatched, where it has an owner.

    Methods that are no coroutines may be called from any thread.
    """

    def __init__(self, grace_s: float = 0.0) -> None:
        self._grace_s = grace_s
        self._lock = threading.Lock()
        self._lives: list[_Live[T]] = []

    async def begin(
        self, session: str, owner: str | None, items: AsyncGenerator[T, None], stop: Callable[[], object]
    ) -> AsyncGenerator[T, None]:
        """Drive ``items`` and watch them. ``stop`` must make them end soon; without an owner nobody can come back."""
        self.detach(session)
        live = _Live[T](owner, stop)
        viewer = _Viewer[T](session)
        live.viewers.append(viewer)
        with self._lock:
            self._lives.append(live)
        live.task = asyncio.create_task(self._drive(live, items))
        async with aclosing(self._watch(live, viewer)) as watched:
            async for item in watched:
                yield item

    async def resume(
        self, session: str, owner: str | None, wanted: Callable[[T], bool], *, only_left: bool = False
    ) -> AsyncGenerator[T, None]:
        """Watch the owner's newest answer that is ``wanted``, from its newest item on; nothing if there is none.

        With ``only_left``, one that another page watches is not taken.
        """
        viewer = _Viewer[T](session)
        with self._lock:
            live = next((one for one in reversed(self._lives) if one.suits(owner, wanted, only_left)), None)
            if live is None or live.last is None:
                return
            viewer.put(live.last)
            if live.ended:
                viewer.end()
                self._lives.remove(live)
            else:
                live.viewers.append(viewer)
        async with aclosing(self._watch(live, viewer)) as watched:
            async for item in watched:
                yield item

    def stop(self, session: str) -> None:
        """Stop what this page watches; its last item still comes."""
        for live in self._watched(session):
            live.end()

    def leave(self, session: str) -> None:
        """The page has gone, perhaps to come back."""
        for live in self._watched(session):
            for viewer in live.of(session):
                self._left(live, viewer)
                viewer.end()

    def detach(self, session: str, instead: T | None = None) -> None:
        """The page turns to something else, ``instead``, at once: what nobody watches any more is stopped."""
        for live in self._watched(session):
            with self._lock:
                gone = live.of(session)
                live.viewers = [viewer for viewer in live.viewers if viewer not in gone]
                alone = not live.viewers
            for viewer in gone:
                if instead is not None:
                    viewer.put(instead)
                viewer.end()
            if alone:
                live.end()

    def _watched(self, session: str) -> list[_Live[T]]:
        with self._lock:
            return [live for live in self._lives if live.of(session)]

    async def _watch(self, live: _Live[T], viewer: _Viewer[T]) -> AsyncGenerator[T, None]:
        try:
            while (found := await viewer.items.get()) is not None:
                yield found[0]
            if live.error is not None:
                raise live.error
        finally:
            self._left(live, viewer)

    async def _drive(self, live: _Live[T], items: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    with self._lock:
                        live.last = item
                        for viewer in live.viewers:
                            viewer.put(item)
                    if live.ending:
                        live.stop()  # the first call may have come before there was anything to stop
        except Exception as error:  # noqa: BLE001  raised again where a page watches
            live.error = error
        finally:
            with self._lock:
                live.ended = True
                for viewer in live.viewers:
                    viewer.end()
                kept = live.owner is not None and not live.viewers and live.error is None
            if kept:
                asyncio.get_running_loop().call_later(self._grace_s, self._forget, live)
            else:
                self._forget(live)

    def _left(self, live: _Live[T], viewer: _Viewer[T]) -> None:
        with self._lock:
            if viewer not in live.viewers:
                return
            live.viewers.remove(viewer)
            if live.viewers or live.ended:
                return
            live.departures += 1
            departure = live.departures
        if live.owner is None or self._grace_s <= 0:
            live.end()
        else:
            viewer.call_later(self._grace_s, self._expire, live, departure)

    def _expire(self, live: _Live[T], departure: int) -> None:
        with self._lock:
            gone = not live.viewers and live.departures == departure
        if gone:
            live.end()

    def _forget(self, live: _Live[T]) -> None:
        with self._lock:
            if live in self._lives:
                self._lives.remove(live)


class _Viewer(Generic[T]):
    """One page that watches; made in the event loop, fed from any thread."""

    def __init__(self, session: str) -> None:
        self.session = session
        self.items: asyncio.Queue[tuple[T] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def put(self, item: T) -> None:
        """Show this."""
        self._loop.call_soon_threadsafe(self.items.put_nowait, (item,))

    def end(self) -> None:
        """Show nothing more."""
        self._loop.call_soon_threadsafe(self.items.put_nowait, None)

    def call_later(self, seconds: float, call: Callable[[_Live[T], int], None], live: _Live[T], number: int) -> None:
        """Call in the event loop."""
        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, call, live, number)


class _Live(Generic[T]):
    """One answer and those who watch it."""

    def __init__(self, owner: str | None, stop: Callable[[], object]) -> None:
        self.owner = owner
        self.stop = stop
        self.viewers: list[_Viewer[T]] = []
        self.last: T | None = None
        self.error: Exception | None = None
        self.ended = self.ending = False
        self.departures = 0
        self.task: asyncio.Task[None] | None = None

    def of(self, session: str) -> list[_Viewer[T]]:
        """The page's viewers of it."""
        return [viewer for viewer in self.viewers if viewer.session == session]

    def suits(self, owner: str | None, wanted: Callable[[T], bool], only_left: bool) -> bool:  # noqa: FBT001
        """Whether its owner may come back to it."""
        mine = owner is not None and self.owner == owner and not (only_left and self.viewers)
        return mine and self.last is not None and wanted(self.last)

    def end(self) -> None:
        """Have it stopped."""
        self.ending = True
        self.stop()
