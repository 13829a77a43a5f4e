"""One accepted request, as its reader sees it: every event so far, and those to come.

Events are kept, so that a page that comes back can read on from where it was, and so that a
reader who stalls never holds the worker up. Knows nothing of engines, pages or HTTP.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chatglm_backend.core import (
    CancelToken,
    Clock,
    Completed,
    Event,
    FinishReason,
    GenerationRequest,
    TokenEvent,
    monotonic_clock,
)
from chatglm_backend.errors import RequestError

__all__ = ["Snapshot", "Ticket"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ticket at one moment; reading on from ``next_index`` misses nothing and repeats nothing."""

    text: str
    next_index: int
    completed: Completed | None
    error: RequestError | None


class Ticket:
    """Thread-safe. Several readers may read the same ticket, each from its own index."""

    def __init__(
        self,
        request: GenerationRequest,
        *,
        disconnect_grace_s: float | None = None,
        timeout_s: float | None = None,
        wake: Callable[[], None] = lambda: None,
        clock: Clock = monotonic_clock,
    ) -> None:
        self.request = request
        self.cancel_token = CancelToken()
        self.submitted_at = clock()
        self._clock = clock
        self._wake = wake
        self._grace_s = disconnect_grace_s
        self._deadline = None if timeout_s is None else self.submitted_at + timeout_s
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._texts: list[str] = []
        self._completed: Completed | None = None
        self._error: RequestError | None = None
        self._readers = 0
        self._last_read = self.submitted_at
        self._listeners: list[Callable[[], None]] = []

    @property
    def request_id(self) -> str:
        """The request's own id."""
        return self.request.request_id

    @property
    def done(self) -> bool:
        """Whether the last event, or an error, is there."""
        return self._completed is not None or self._error is not None

    @property
    def text(self) -> str:
        """The answer so far."""
        with self._changed:
            return "".join(self._texts)

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Ask for the end; the last event follows within one unit of work."""
        self.cancel_token.cancel(reason)
        self._wake()

    def snapshot(self) -> Snapshot:
        """Text, end and the index to read on from, all of one moment."""
        with self._changed:
            return Snapshot("".join(self._texts), len(self._events), self._completed, self._error)

    def read(self, start: int = 0, timeout_s: float | None = None) -> list[Event]:
        """All events from index ``start`` on; waits for the first of them, at most ``timeout_s``.

        An empty list means that time is up or that nothing follows (see ``done``). Raises the
        ticket's error once everything before it was read.
        """
        with self._attached(), self._changed:
            self._changed.wait_for(lambda: len(self._events) > start or self.done, timeout_s)
            return self._since(start)

    def events(self, start: int = 0) -> Iterator[Event]:
        """Every event from index ``start`` on, waiting for those to come. Raises the ticket's error."""
        with self._attached():
            while True:
                found = self.read(start)
                yield from found
                if not found:
                    return
                start += len(found)

    def replay_from(self, index: int) -> Iterator[Event]:
        """Read on after a reconnect; the same as ``events(start=index)``."""
        return self.events(index)

    async def events_async(self, start: int = 0, heartbeat_s: float | None = None) -> AsyncIterator[Event | None]:
        """As :meth:`events` for an event loop; ``None`` whenever nothing came for ``heartbeat_s``."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(changed.set)

        with self._attached(), self._listening(tell):
            while True:
                changed.clear()
                with self._changed:
                    found, ended = self._since(start), self.done
                for event in found:
                    yield event
                start += len(found)
                if found:
                    continue
                if ended:
                    return
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat_s)
                except (TimeoutError, asyncio.TimeoutError):
                    yield None

    def publish(self, result: Event | RequestError) -> None:
        """Add an event or the error that ends the ticket; called by the worker. Ignored after the end."""
        with self._changed:
            if self.done:
                return
            if isinstance(result, RequestError):
                self._error = result
            else:
                self._events.append(result)
                if isinstance(result, (TokenEvent, Completed)):
                    self._texts.append(result.text)
                if isinstance(result, Completed):
                    self._completed = result
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            self._tell(listener)

    def check_reader(self) -> None:
        """Cancel when the deadline has passed or nobody has read for longer than the grace period."""
        now = self._clock()
        if self.done or self.cancel_token.cancelled:
            return
        if self._deadline is not None and now >= self._deadline:
            self.cancel_token.cancel(FinishReason.TIMEOUT)
        elif self._grace_s is not None:
            with self._changed:
                abandoned = self._readers == 0 and now - self._last_read > self._grace_s
            if abandoned:
                self.cancel_token.cancel(FinishReason.CANCELLED)

    def _since(self, start: int) -> list[Event]:
        found = self._events[start:]
        if not found and self._error is not None:
            raise self._error
        return found

    @contextmanager
    def _attached(self) -> Iterator[None]:
        with self._changed:
            self._readers += 1
        try:
            yield
        finally:
            with self._changed:
                self._readers -= 1
                self._last_read = self._clock()

    @contextmanager
    def _listening(self, listener: Callable[[], None]) -> Iterator[None]:
        with self._changed:
            self._listeners.append(listener)
        try:
            yield
        finally:
            self._forget(listener)

    def _tell(self, listener: Callable[[], None]) -> None:
        try:
            listener()
        except RuntimeError:  # its event loop is closed: nobody reads there any more
            self._forget(listener)

    def _forget(self, listener: Callable[[], None]) -> None:
        with self._changed:
            if listener in self._listeners:
                self._listeners.remove(listener)
