"""One thread owns the engines; everybody else holds tickets.

Admits waiting requests fairly and by memory, steps the engines, hands events to tickets, and
counts. Knows engines through a protocol; nothing of models, HTTP or pages.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Generic

from chatglm_backend.core import Completed, Event, GenerationRequest, Queued, TokenEvent, monotonic_clock
from chatglm_backend.errors import (
    EngineFailure,
    InvalidRequest,
    NoMemoryForPrompt,
    RequestError,
    ShuttingDown,
    TooManyRequests,
)
from chatglm_backend.sentences import Sentence
from chatglm_backend.serving.facts import accepted_facts, ended_facts
from chatglm_backend.serving.fair_queue import FairQueue
from chatglm_backend.serving.metrics import Metrics
from chatglm_backend.serving.ports import EnginePort, P
from chatglm_backend.serving.ticket import Ticket
from chatglm_backend.settings import Settings
from chatglm_backend.units import size

_log = logging.getLogger(__name__)

_HOUSEKEEPING_S = 0.5


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """Limits. ``kv_budget_bytes`` ``None`` leaves memory out of admission; one request that fits may always run.

    A request beyond the budget must fit what ``free_memory`` says, in bytes.

    Of one visitor at most ``visitor_limit`` requests run at the same time, and at most half of the queue waits.
    """

    max_running: int = 4
    kv_budget_bytes: int | None = None
    queue_limit: int = 64
    visitor_limit: int = 4
    log_prompts: bool = False
    free_memory: Callable[[], int] | None = None

    @staticmethod
    def of(
        settings: Settings, max_running: int, kv_budget_bytes: int | None = None,
        free_memory: Callable[[], int] | None = None,
    ) -> WorkerOptions:  # fmt: skip
        """As set, but for what follows from memory."""
        limits = settings.queue_limit, settings.visitor_limit
        return WorkerOptions(max_running, kv_budget_bytes, *limits, settings.log_prompts, free_memory)


@dataclass(eq=False, slots=True)
class _Job(Generic[P]):
    """A ticket with what the worker needs to know of it; compared by identity."""

    ticket: Ticket
    engine: EnginePort[P]
    prepared: P
    told_position: int = 0
    last_token_at: float | None = None


class Worker(Generic[P]):
    """Thread-safe, but for the engines, which only the worker's own thread touches. Starts at once."""

    def __init__(self, engines: Mapping[str, EnginePort[P]], options: WorkerOptions | None = None) -> None:
        """``engines`` by the kernel that a ticket asks for."""
        self.options = options or WorkerOptions()
        self._engines = dict(engines)
        self._wake = threading.Condition()
        self._queue: FairQueue[_Job[P]] = FairQueue(self.options.queue_limit)
        self._running: dict[Hashable, _Job[P]] = {}
        self._active: dict[str, Ticket] = {}
        self._metrics = Metrics()
        self._closing = False
        self._crashed = False
        self._poked = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """Whether the thread is alive and takes requests."""
        return not self._crashed and not self._closing and self._thread.is_alive()

    def take(self, ticket: Ticket) -> None:
        """Take a request in line.

        Raises ContextLimitExceeded, NoMemoryForPrompt, QueueFull, TooManyRequests, InvalidRequest (an id in use, an
        unknown kernel), ShuttingDown or EngineFailure (the worker has died).
        """
        request = ticket.request
        try:
            self._refuse_when_gone()
            engine = self._engines.get(ticket.kernel)
            if engine is None:
                offered = ", ".join(filter(None, self._engines)) or "only its own"
                raise InvalidRequest(
                    field="kernel", value=ticket.kernel, reason=Sentence("request.kernels", kernels=offered)
                )
            prepared = self._within_memory(engine.prepare(request))  # encoding is slow, and needs no lock
            with self._wake:
                self._refuse_when_gone()
                self._check_limits(request)
                ticket.begin(self._poke)
                self._queue.push(request.visitor, _Job(ticket, engine, prepared))
                self._active[request.request_id] = ticket
                self._metrics.taken(request.adapter)
        except RequestError as error:
            with self._wake:
                self._metrics.refused[error.code] += 1
            _log.info("request refused", extra={"facts": {"request": request.request_id, "code": error.code}})
            raise
        _log.info("request accepted", extra={"facts": accepted_facts(request, prepared, self.options.log_prompts)})
        self._poke()

    def measure(self, request: GenerationRequest) -> P:
        """A request's length and memory on its own kernel. Raises what refuses its size."""
        return self._within_memory(self._engines[""].prepare(request))

    def metrics(self) -> Metrics:
        """Counters and histograms of this moment."""
        with self._wake:
            return self._metrics.snapshot(
                running=len(self._running), waiting=len(self._queue), kv_reserved_bytes=self._reserved()
            )

    def close(self, drain_s: float = 0.0) -> None:
        """Take nothing new, give what is accepted ``drain_s`` to end, cancel the rest, end the thread."""
        with self._wake:
            self._closing = True
            self._poked = True
            self._wake.notify_all()
            self._wake.wait_for(lambda: not self._active or self._crashed, drain_s)
            left = list(self._active.values())
        for ticket in left:
            ticket.cancel()
        self._poke()
        self._thread.join()

    def _refuse_when_gone(self) -> None:
        if self._closing:
            raise ShuttingDown
        if not self.healthy:
            raise EngineFailure(reason=Sentence("engine.worker_stopped"))

    def _within_memory(self, prepared: P) -> P:
        needed, budget, free = prepared.kv_bytes, self.options.kv_budget_bytes, self.options.free_memory
        if budget is None or free is None or needed <= budget or needed <= (now := free()):
            return prepared
        shorter = prepared.within(now)
        if shorter.kv_bytes > now:
            raise NoMemoryForPrompt(prompt_tokens=prepared.prompt_tokens, needed=size(needed), free=size(now))
        return shorter

    def _check_limits(self, request: GenerationRequest) -> None:
        if request.request_id in self._active:
            raise InvalidRequest(field="request_id", value=request.request_id, reason=Sentence("request.in_use"))
        share = max(1, self.options.queue_limit // 2)
        if self._queue.waiting_for(request.visitor) >= share:
            raise TooManyRequests(limit=share)

    def _poke(self) -> None:
        with self._wake:
            self._poked = True
            self._wake.notify_all()

    def _run(self) -> None:
        reason: object = Sentence("engine.thread_ended")
        try:
            while self._wait_for_work():
                self._turn()
        except Exception as error:  # noqa: BLE001 - told to the visitors concerned, and logged
            _log.exception("the engine failed")
            reason = type(error).__name__
        finally:
            # Also reached when the thread is ended from outside: nobody may wait for ever.
            if self._active or not self._closing:
                self._crash(reason)

    def _wait_for_work(self) -> bool:
        """Sleep until there is something to do; False when the worker is to end."""
        with self._wake:
            ended = self._closing and not self._active
            if not (self._running or self._poked or ended):
                self._wake.wait(_HOUSEKEEPING_S if self._active else None)
            self._poked = False
            return bool(self._active) or not self._closing

    def _turn(self) -> None:
        """Housekeeping, admission, one step."""
        for ticket in self._tickets():
            ticket.check_reader()
        if len(self._queue):  # hardly ever, and then only an end or a new request brings a change
            self._drop_cancelled()
            while (job := self._next_job()) is not None:
                self._start(job)
            self._tell_positions()
        for engine in {id(job.engine): job.engine for job in self._running.values()}.values():
            for handle, result in engine.step():
                self._deliver(handle, result)

    def _tickets(self) -> list[Ticket]:
        with self._wake:
            return list(self._active.values())

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [job for job in self._queue.order() if job.ticket.cancel_token.cancelled]
            for job in gone:
                self._queue.remove(job.ticket.request.visitor, job)
        for job in gone:
            self._end(job.ticket, job.ticket.end_unserved(job.prepared.prompt_tokens))

    def _next_job(self) -> _Job[P] | None:
        with self._wake:
            running = Counter(job.ticket.request.visitor for job in self._running.values())
            sated = {visitor for visitor, count in running.items() if count >= self.options.visitor_limit}
            job = self._queue.peek(sated)
            if job is None or len(self._running) >= self.options.max_running:
                return None
            budget = self.options.kv_budget_bytes
            if self._running and budget is not None and self._reserved() + job.prepared.kv_bytes > budget:
                return None  # it waits for memory, and nobody overtakes it
            return self._queue.pop(sated)

    def _start(self, job: _Job[P]) -> None:
        ticket = job.ticket
        try:
            handle = job.engine.start(ticket.request, ticket.cancel_token, ticket.submitted_at, job.prepared)
        except RequestError as error:
            self._end(ticket, error)
        except Exception as error:  # noqa: BLE001 - told to the visitors concerned, and logged
            _log.exception("request %s could not start", ticket.request_id)
            self._end(ticket, EngineFailure(reason=type(error).__name__))
        else:
            with self._wake:
                self._running[handle] = job

    def _tell_positions(self) -> None:
        with self._wake:
            waiting = self._queue.order()
            mean = self._metrics.mean_running_s
            slots = max(1, len(self._running))
        for position, job in enumerate(waiting, start=1):
            if job.told_position != position:
                job.told_position = position
                eta = None if mean is None else position * mean / slots
                job.ticket.publish(Queued(position, eta))

    def _deliver(self, handle: Hashable, result: Event | RequestError) -> None:
        job = self._running.get(handle)
        if job is None:
            return
        if isinstance(result, (Completed, RequestError)):
            with self._wake:
                del self._running[handle]
            self._end(job.ticket, result)
            return
        if isinstance(result, TokenEvent):
            now = monotonic_clock()
            if job.last_token_at is not None:
                with self._wake:
                    self._metrics.itl_s.observe(now - job.last_token_at)
            job.last_token_at = now
        job.ticket.publish(result)

    def _end(self, ticket: Ticket, result: Completed | RequestError) -> None:
        """Count and tell the end of a request that is neither running nor waiting any more."""
        with self._wake:
            if isinstance(result, Completed):
                self._metrics.completed(result)
            else:
                self._metrics.failed[result.code] += 1
            self._active.pop(ticket.request_id, None)
            self._wake.notify_all()
        _log.info("request ended", extra={"facts": ended_facts(ticket.request_id, result)})
        ticket.publish(result)

    def _crash(self, reason: object) -> None:
        with self._wake:
            self._crashed = True
            self._running.clear()
            while len(self._queue):
                self._queue.pop()
        for ticket in self._tickets():
            self._end(ticket, EngineFailure(reason=reason))
        with self._wake:
            self._wake.notify_all()

    def _reserved(self) -> int:
        return sum(job.prepared.kv_bytes for job in self._running.values())
