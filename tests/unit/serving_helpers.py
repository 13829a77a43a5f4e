"""An engine that a test steps by hand, and a worker that makes its tickets itself."""
# ruff: noqa: D102 - the protocol describes the engine's methods

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from chatglm_backend.core import (
    CancelToken,
    Clock,
    Completed,
    Event,
    FinishReason,
    GenerationParams,
    GenerationRequest,
    Timing,
    TokenEvent,
    Usage,
    monotonic_clock,
)
from chatglm_backend.errors import (
    EngineFailure,
    RequestError,
)
from chatglm_backend.serving.ticket import Logged, Ticket
from chatglm_backend.serving.worker import Worker, WorkerOptions

WAIT = 10.0


@dataclass(eq=False)
class Life:
    """One sequence of the fake engine."""

    request: GenerationRequest
    kv_bytes: int
    prompt_tokens: int = 3
    cancel: CancelToken = field(default_factory=CancelToken)
    made: int = 0

    def within(self, kv_bytes: int) -> Life:
        return replace(self, kv_bytes=kv_bytes) if self.request.prompt == "y" * 50 else self


@dataclass
class FakeEngine:
    """One token per sequence and step. ``gate`` closed holds the next step back."""

    gate: threading.Event = field(default_factory=threading.Event)
    lives: list[Life] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    most_running: int = 0
    mine_running: list[int] = field(default_factory=list)
    steps: int = 0
    crash: BaseException | None = None

    def prepare(self, request: GenerationRequest) -> Life:
        return Life(request, 100 * len(request.prompt or ""))

    def start(self, request: GenerationRequest, cancel: CancelToken, submitted_at: float, prepared: Life) -> Life:
        del submitted_at
        if request.prompt == "unstartable":
            raise MemoryError
        prepared.cancel = cancel
        self.lives.append(prepared)
        self.started.append(request.request_id)
        self.most_running = max(self.most_running, len(self.lives))
        self.mine_running.append(sum(one.request.visitor == request.visitor for one in self.lives))
        return prepared

    def step(self) -> Sequence[tuple[Life, Event | RequestError]]:
        self.gate.wait(WAIT)
        self.steps += 1
        if self.crash is not None:
            raise self.crash
        return [result for life in list(self.lives) for result in self._advance(life)]

    def reasons(self, *tickets: Ticket) -> list[FinishReason]:
        """Let it run, and wait for the ends."""
        self.gate.set()
        return [reason_of(ticket) for ticket in tickets]

    def _advance(self, life: Life) -> Iterator[tuple[Life, Event | RequestError]]:
        cancelled = life.cancel.cancelled  # read once: another thread may set it at any moment
        reason = life.cancel.reason if cancelled else FinishReason.LENGTH
        if life.request.prompt == "bad":
            self.lives.remove(life)
            yield life, EngineFailure(reason="scripted")
            return
        if not cancelled:
            yield life, TokenEvent(life.made, 1, f"{life.request.request_id}{life.made} ")
            life.made += 1
        if cancelled or life.made >= life.request.params.max_new_tokens:
            self.lives.remove(life)
            yield life, Completed(reason, Usage(3, life.made), Timing(total_s=1.0))


def ask(name: str, session: str = "local", prompt: str = "x", tokens: int = 3) -> GenerationRequest:
    """Return a request."""
    return GenerationRequest(name, session, prompt=prompt, params=GenerationParams(max_new_tokens=tokens))


class Line(Worker[Life]):
    """A worker that makes the tickets itself, by ``clock``."""

    clock: Clock = staticmethod(monotonic_clock)

    def submit(self, request: GenerationRequest, **limits: Any) -> Ticket:
        ticket = Ticket(request, clock=self.clock, **limits)
        self.take(ticket)
        return ticket


def followed(ticket: Ticket, found: Callable[[list[Logged]], object], **how: float) -> None:
    """Read as a page does."""

    async def read() -> None:
        async for batch in ticket.follow(**how):
            found(batch)

    asyncio.run(read())


def reason_of(ticket: Ticket) -> FinishReason:
    """Wait for the end."""
    last = list(ticket.events())[-1]
    assert isinstance(last, Completed)
    return last.finish_reason


@contextmanager
def lines(engine: FakeEngine) -> Iterator[Callable[..., Line]]:
    """A maker of workers over an engine, which are closed afterwards."""
    made: list[Line] = []

    def build(clock: Clock = monotonic_clock, **options: Any) -> Line:
        made.append(Line({"": engine}, WorkerOptions(**options)))
        made[-1].clock = clock
        return made[-1]

    yield build
    engine.gate.set()
    for worker in made:
        worker.close()
