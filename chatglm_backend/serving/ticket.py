"""The log of one answer: its events as they came, and its end. Everybody else reads it.

Events are kept, so that a page that comes back can read from the start, and so that a reader who
stalls never holds the worker up. How long an answer may take, and how long it goes on when nobody
reads it, is decided here and nowhere else. Knows nothing of engines, pages or HTTP.
"""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chatglm_backend.core import (
    CancelToken,
    Clock,
    Completed,
    Event,
    FinishReason,
    GenerationRequest,
    Timing,
    TokenEvent,
    Usage,
    monotonic_clock,
)
from chatglm_backend.errors import ChatGLMError

_FIRST_READ_S = 5.0
_EVENT_BYTES = 200


@dataclass(frozen=True, slots=True)
class Logged:
    """An event and when it came, in seconds of the clock."""

    at: float
    event: Event


class Ticket:
    """Thread-safe. Several readers may read the same ticket, each from its own index."""

    def __init__(
        self,
        request: GenerationRequest,
        *,
        kernel: str = "",
        disconnect_grace_s: float | None = None,
        timeout_s: float | None = None,
        wake: Callable[[], None] = lambda: None,
        clock: Clock = monotonic_clock,
    ) -> None:
        """``kernel`` is empty for the model's own, or one of its other ones, for comparisons.

        With ``disconnect_grace_s`` it is cancelled when nobody reads for so long. ``timeout_s`` ``None`` or 0: no
        limit. ``wake`` tells whoever has the ticket that its end is asked for.
        """
        self.request = request
        self.kernel = kernel
        self.cancel_token = CancelToken()
        self.submitted_at = clock()
        self._clock = clock
        self._wake = wake
        self._grace_s = disconnect_grace_s
        self._timeout_s = timeout_s
        self._deadline: float | None = None
        self._changed = threading.Condition()
        self._log: list[Event] = []
        self._times = array("d")  # when each of them came
        self._completed = False
        self._error: ChatGLMError | None = None
        self._readers = 0
        self._last_read, self._was_read = self.submitted_at, False
        self._listeners: list[Callable[[], object]] = []

    @property
    def request_id(self) -> str:
        """The request's own id."""
        return self.request.request_id

    @property
    def done(self) -> bool:
        """Whether the last event, or an error, is there."""
        return self._completed or self._error is not None

    @property
    def text(self) -> str:
        """The answer so far."""
        with self._changed:
            events = list(self._log)
        return "".join(event.text for event in events if isinstance(event, (TokenEvent, Completed)))

    @property
    def size(self) -> int:
        """About how many bytes of memory its events and what was asked take."""
        asked = (self.request.prompt or "", *(message.content for message in self.request.messages))
        return _EVENT_BYTES * len(self._log) + 2 * sum(map(len, asked))

    def begin(self, wake: Callable[[], None]) -> None:
        """A worker has it from now on, and calls its time from now."""
        self._wake = wake
        self.submitted_at = self._clock()
        self._deadline = self.submitted_at + self._timeout_s if self._timeout_s else None

    def cancel(self, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Ask for the end; the last event follows within one unit of work."""
        self.cancel_token.cancel(reason)
        self._wake()

    def read(self, start: int = 0, timeout_s: float | None = None) -> list[Event]:
        """All events from index ``start`` on; waits for the first of them, at most ``timeout_s``.

        An empty list means that time is up or that nothing follows (see ``done``). Raises the
        ticket's error once everything before it was read.
        """
        with self._attached(), self._changed:
            self._changed.wait_for(lambda: len(self._log) > start or self.done, timeout_s)
            return [logged.event for logged in self._since(start)]

    def events(self) -> Iterator[Event]:
        """Every event, waiting for those to come. Raises the ticket's error."""
        start = 0
        with self._attached():
            while found := self.read(start):
                yield from found
                start += len(found)

    async def follow(
        self, *, pace_s: float = 0.0, heartbeat_s: float | None = None, reading: bool = True
    ) -> AsyncGenerator[list[Logged], None]:
        """The log from its beginning, in lists at least ``pace_s`` apart; an empty one when nothing came for
        ``heartbeat_s``. Raises the ticket's error after the events before it. With ``reading`` false it does not
        count as somebody who reads.
        """
        loop, changed, start = asyncio.get_running_loop(), asyncio.Event(), 0
        with (
            self._attached(int(reading)),
            self._listening(lambda: changed.is_set() or loop.call_soon_threadsafe(changed.set)),
        ):
            while True:
                changed.clear()
                with self._changed:
                    found, ended = self._since(start), self._completed
                start += len(found)
                if found:
                    yield found
                if ended:
                    return
                if found:
                    await asyncio.sleep(0 if self.done else pace_s)
                    continue
                try:
                    await asyncio.wait_for(changed.wait(), heartbeat_s)
                except (TimeoutError, asyncio.TimeoutError):
                    yield []

    def publish(self, result: Event | ChatGLMError) -> None:
        """Add an event or the error that ends the ticket. Ignored after the end."""
        with self._changed:
            if self.done:
                return
            if isinstance(result, ChatGLMError):
                self._error = result
            else:
                self._log.append(result)
                self._times.append(self._clock())
                self._completed = isinstance(result, Completed)
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            self._tell(listener)

    def end_unserved(self, prompt_tokens: int = 0) -> Completed:
        """The last event of a ticket that was cancelled while it waited; not published yet."""
        waited = self._clock() - self.submitted_at
        timing = Timing(queue_wait_s=waited, total_s=waited)
        return Completed(self.cancel_token.reason, Usage(prompt_tokens, completion_tokens=0), timing)

    def check_reader(self) -> None:
        """Cancel when the deadline has passed or nobody has read for longer than the grace period."""
        now = self._clock()
        if self.done or self.cancel_token.cancelled:
            return
        if self._deadline is not None and now >= self._deadline:
            self.cancel_token.cancel(FinishReason.TIMEOUT)
        elif self._grace_s is not None:
            with self._changed:
                grace_s = self._grace_s if self._was_read else max(self._grace_s, _FIRST_READ_S)
                abandoned = self._readers == 0 and now - self._last_read > grace_s
            if abandoned:
                self.cancel_token.cancel(FinishReason.CANCELLED)

    def _since(self, start: int) -> list[Logged]:
        found = list(map(Logged, self._times[start:], self._log[start:]))
        if not found and self._error is not None:
            raise self._error
        return found

    @contextmanager
    def _attached(self, readers: int = 1) -> Iterator[None]:
        with self._changed:
            self._readers += readers
        try:
            yield
        finally:
            with self._changed:
                self._readers -= readers
                if readers:
                    self._last_read, self._was_read = self._clock(), True

    @contextmanager
    def _listening(self, listener: Callable[[], object]) -> Iterator[None]:
        with self._changed:
            self._listeners.append(listener)
        try:
            yield
        finally:
            self._forget(listener)

    def _tell(self, listener: Callable[[], object]) -> None:
        try:
            listener()
        except RuntimeError:  # its event loop is closed: nobody reads there any more
            self._forget(listener)

    def _forget(self, listener: Callable[[], object]) -> None:
        with self._changed:
            if listener in self._listeners:
                self._listeners.remove(listener)
