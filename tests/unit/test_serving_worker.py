"""The worker thread and its tickets, over an engine that a test steps by hand."""
# ruff: noqa: D102 - the protocol describes the engine's methods

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from chatglm_backend.core import (
    CancelToken,
    Clock,
    Completed,
    Event,
    FinishReason,
    GenerationParams,
    GenerationRequest,
    Queued,
    Timing,
    TokenEvent,
    Usage,
    monotonic_clock,
)
from chatglm_backend.errors import (
    EngineFailure,
    InvalidRequest,
    NoMemoryForPrompt,
    QueueFull,
    RequestError,
    ShuttingDown,
    TooManyRequests,
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


@pytest.fixture
def engine() -> FakeEngine:
    """An engine whose gate is closed."""
    return FakeEngine()


@pytest.fixture
def make(engine: FakeEngine) -> Iterator[Any]:
    """A maker of workers that are closed afterwards."""
    made: list[Line] = []

    def build(clock: Clock = monotonic_clock, **options: Any) -> Line:
        made.append(Line({"": engine}, WorkerOptions(**options)))
        made[-1].clock = clock
        return made[-1]

    yield build
    engine.gate.set()
    for worker in made:
        worker.close()


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


def test_a_ticket_gives_every_event_in_order(make: Any, engine: FakeEngine) -> None:
    """Tokens, then the end, and the text is theirs."""
    engine.gate.set()
    ticket = make().submit(ask("a"))
    assert [type(e) for e in ticket.events()] == [TokenEvent, TokenEvent, TokenEvent, Completed]
    assert ticket.text == "a0 a1 a2 "


@pytest.mark.parametrize(
    ("options", "sizes", "at_once"),
    [({"max_running": 2, "visitor_limit": 9}, [1] * 6, 2), ({"max_running": 4, "kv_budget_bytes": 900}, [5, 5, 50], 1)],
)
def test_places_and_memory_limit_how_many_run(
    make: Any, engine: FakeEngine, options: dict[str, int], sizes: list[int], at_once: int
) -> None:
    """Two places, two at once; two requests of 500 bytes do not fit into 900, but one of 5 000 may run alone."""
    worker = make(**options)
    tickets = [worker.submit(ask(f"r{n}", prompt="x" * size)) for n, size in enumerate(sizes)]
    assert engine.reasons(*tickets) == [FinishReason.LENGTH] * len(sizes)
    assert engine.most_running == at_once


def test_a_prompt_that_no_memory_is_left_for_is_refused_with_numbers(make: Any, engine: FakeEngine) -> None:
    """Beyond the budget a request may run alone, as long as what is free now is enough for it."""
    worker = make(kv_budget_bytes=900, free_memory=lambda: 4_000)
    with pytest.raises(NoMemoryForPrompt, match=r"3 tokens .* 5.00 kB .* 4.00 kB are free"):
        worker.submit(ask("r0", prompt="x" * 50))
    assert worker.metrics().refused["no_memory_for_prompt"] == 1
    assert engine.reasons(worker.submit(ask("r1", prompt="x" * 30))) == [FinishReason.LENGTH]
    as_fits = worker.submit(ask("r2", prompt="y" * 50))  # such a request gives way instead
    assert engine.reasons(as_fits) == [FinishReason.LENGTH]


def test_those_who_wait_are_told_where(make: Any, engine: FakeEngine) -> None:
    """Positions count down to the start; the second time with an estimate."""
    worker = make(max_running=1)
    tickets = [worker.submit(ask(f"r{n}")) for n in range(3)]
    engine.gate.set()
    told = [e for e in tickets[2].events() if isinstance(e, Queued)]
    assert [e.position for e in told][-1] == 1
    assert told[-1].eta_s is not None


def test_limits_refuse_and_are_counted(make: Any, engine: FakeEngine) -> None:
    """Half the queue for one visitor, the whole for all, one request for an id, and only kernels that there are."""
    worker = make(max_running=1, queue_limit=4)
    first = worker.submit(ask("a0", "a"))
    while not engine.started:
        first.read(timeout_s=0.01)
    worker.submit(ask("a1", "a"))
    worker.submit(ask("a2", "a"))
    with pytest.raises(TooManyRequests):
        worker.submit(ask("a3", "a"))
    with pytest.raises(InvalidRequest):
        worker.submit(ask("a1", "b"))
    with pytest.raises(InvalidRequest, match="only its own"):
        worker.submit(ask("k", "b"), kernel="other")
    for name in ("b0", "c0"):
        worker.submit(ask(name, name))
    with pytest.raises(QueueFull):
        worker.submit(ask("d0", "d"))
    assert worker.metrics().refused == {"too_many_requests": 1, "invalid_request": 2, "queue_full": 1}


def test_twelve_requests_of_one_visitor_are_queued(make: Any, engine: FakeEngine) -> None:
    """At most two of them run at the same time, and another visitor does not wait for the rest of them."""
    worker = make(max_running=4, visitor_limit=2)
    many = [worker.submit(ask(f"a{n}", "a", tokens=50)) for n in range(12)]
    other = worker.submit(ask("b0", "b"))
    assert set(engine.reasons(*many, other)) == {FinishReason.LENGTH}
    assert engine.started.index("b0") <= 2
    assert max(engine.mine_running) == 2


def test_each_kernel_has_an_engine_of_its_own(engine: FakeEngine) -> None:
    """A request goes to the one it asks for, and both are stepped."""
    other = FakeEngine(gate=engine.gate)
    worker = Line({"": engine, "other": other})
    tickets = worker.submit(ask("a")), worker.submit(ask("b"), kernel="other")
    assert engine.reasons(*tickets) == [FinishReason.LENGTH] * 2
    assert (engine.started, other.started) == (["a"], ["b"])
    worker.close()


def test_a_waiting_request_can_be_stopped(make: Any, engine: FakeEngine) -> None:
    """It never reaches the engine, and the running one goes on."""
    worker = make(max_running=1)
    running, waiting = worker.submit(ask("a")), worker.submit(ask("b"))
    waiting.cancel()
    assert engine.reasons(waiting, running) == [FinishReason.CANCELLED, FinishReason.LENGTH]
    assert engine.started == ["a"]


def test_a_running_request_can_be_stopped(make: Any, engine: FakeEngine) -> None:
    """One step later it is over; the text so far stays."""
    worker = make()
    ticket = worker.submit(ask("a", tokens=1_000_000))
    engine.gate.set()
    ticket.read()
    ticket.cancel()
    assert engine.reasons(ticket) == [FinishReason.CANCELLED]
    assert ticket.text.startswith("a0 ")


def test_every_reader_gets_the_whole_log(make: Any, engine: FakeEngine) -> None:
    """Also one that comes when half of it is written, or all."""
    ticket = make().submit(ask("a", tokens=50))
    engine.gate.set()
    ticket.read()
    for _ in range(2):
        found = "".join(e.text for e in ticket.events() if isinstance(e, TokenEvent))
        assert found == ticket.text == "".join(f"a{n} " for n in range(50))
    assert "".join(e.text for e in ticket.read(49) if isinstance(e, TokenEvent)) == "a49 "


def test_reading_with_a_timeout_gives_a_heartbeat(make: Any) -> None:
    """Nothing new in time is an empty list, not an end."""
    ticket = make().submit(ask("a"))
    assert ticket.read(timeout_s=0.01) == []
    assert not ticket.done


def test_a_reader_who_stalls_holds_nobody_up(make: Any, engine: FakeEngine) -> None:
    """One reads nothing at all; the other gets its whole answer, and the first can still read its own."""
    worker = make()
    stalled, reading = worker.submit(ask("a", tokens=200)), worker.submit(ask("b"))
    iterator = stalled.events()
    assert engine.reasons(reading) == [FinishReason.LENGTH]
    assert sum(isinstance(e, TokenEvent) for e in iterator) == 200


def test_nobody_reading_for_the_grace_period_cancels(make: Any, engine: FakeEngine) -> None:
    """Only the ticket that was left alone ends, and only once the period is over."""
    now = [0.0]
    worker = make(lambda: now[0])
    left = worker.submit(ask("a", tokens=1_000_000), disconnect_grace_s=10.0)
    kept = worker.submit(ask("b", tokens=1_000_000))
    engine.gate.set()
    now[0] = 9.0
    left.read()
    now[0] = 18.0
    start = engine.steps
    while engine.steps < start + 3:
        kept.read(timeout_s=0.001)
    assert not left.cancel_token.cancelled
    now[0] = 20.0
    while not left.done:
        kept.read(timeout_s=0.001)
    assert not kept.done
    assert reason_of(left) is FinishReason.CANCELLED
    kept.cancel()


def test_an_attached_reader_is_not_abandoned() -> None:
    """Someone who waits in events() counts as reading, however long nothing comes."""
    now = [0.0]
    ticket = Ticket(ask("a"), disconnect_grace_s=1.0, clock=lambda: now[0])
    ticket.publish(TokenEvent(0, 1, "x"))
    reader = ticket.events()
    next(reader)
    now[0] = 100.0
    ticket.check_reader()
    assert not ticket.cancel_token.cancelled
    reader.close()  # type: ignore[attr-defined]
    now[0] = 102.0
    ticket.check_reader()
    assert ticket.cancel_token.cancelled


def test_a_deadline_ends_with_timeout(make: Any, engine: FakeEngine) -> None:
    """The reason is told apart from a stop."""
    now = [0.0]
    ticket = make(lambda: now[0]).submit(ask("a", tokens=1_000_000), timeout_s=5.0)
    now[0] = 6.0
    assert engine.reasons(ticket) == [FinishReason.TIMEOUT]


def test_a_failing_request_is_told_and_the_others_go_on(make: Any, engine: FakeEngine) -> None:
    """Errors reach their own ticket only, whether at the start or later."""
    worker = make()
    bad, worse, good = (worker.submit(ask(prompt, prompt=prompt)) for prompt in ("bad", "unstartable", "good"))
    engine.gate.set()
    for ticket in (bad, worse):
        with pytest.raises(EngineFailure):
            list(ticket.events())
    assert reason_of(good) is FinishReason.LENGTH
    assert worker.healthy
    assert worker.metrics().failed == {"engine_failure": 2}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("crash", [RuntimeError("gone"), SystemExit()])
def test_a_dead_worker_tells_everybody(make: Any, engine: FakeEngine, crash: BaseException) -> None:
    """Running and waiting tickets get an error, and readiness goes red."""
    worker = make(max_running=1)
    tickets = [worker.submit(ask("a")), worker.submit(ask("b"))]
    engine.crash = crash
    engine.gate.set()
    for ticket in tickets:
        with pytest.raises(EngineFailure):
            list(ticket.events())
    assert not worker.healthy
    with pytest.raises(EngineFailure):
        worker.submit(ask("c"))


def test_closing_lets_accepted_requests_end(make: Any, engine: FakeEngine) -> None:
    """Within the drain time all answers end by themselves; nothing new is taken."""
    worker = make(max_running=1)
    tickets = [worker.submit(ask("a")), worker.submit(ask("b"))]
    engine.gate.set()
    worker.close(drain_s=WAIT)
    assert [reason_of(t) for t in tickets] == [FinishReason.LENGTH, FinishReason.LENGTH]
    with pytest.raises(ShuttingDown):
        worker.submit(ask("c"))


def test_closing_cancels_what_does_not_end(make: Any, engine: FakeEngine) -> None:
    """After the drain time the rest is cancelled, told, and the thread ends."""
    worker = make()
    ticket = worker.submit(ask("a", tokens=1_000_000))
    engine.gate.set()
    worker.close(drain_s=0.01)
    assert reason_of(ticket) is FinishReason.CANCELLED
    assert not worker.healthy


def test_event_loops_read_too(make: Any, engine: FakeEngine) -> None:
    """The asynchronous reader gets heartbeats while nothing comes, then every event and when it came."""
    found: list[list[Logged]] = []

    def take(batch: list[Logged]) -> None:
        found.append(batch)
        engine.gate.set()

    followed(make().submit(ask("a")), take, heartbeat_s=0.01)
    assert found[0] == []
    logged = [one for batch in found for one in batch]
    assert [type(one.event) for one in logged] == [TokenEvent, TokenEvent, TokenEvent, Completed]
    assert [one.at for one in logged] == sorted(one.at for one in logged)


def test_a_failing_answer_tells_its_events_first() -> None:
    """Then the error, to every reader."""
    ticket = Ticket(ask("a"))
    ticket.publish(TokenEvent(0, 1, "x"))
    ticket.publish(EngineFailure(reason="scripted"))
    ticket.publish(TokenEvent(1, 1, "late"))
    for _ in range(2):
        found: list[Logged] = []
        with pytest.raises(EngineFailure):
            followed(ticket, found.extend)
        assert [logged.event for logged in found] == [TokenEvent(0, 1, "x")]


def test_counters_follow_the_work(make: Any, engine: FakeEngine) -> None:
    """Accepted, finished, tokens, and nothing left at the end."""
    worker = make()
    engine.reasons(*(worker.submit(ask(f"r{n}")) for n in range(3)))
    shown = worker.metrics()
    assert (shown.accepted, shown.finished, shown.tokens["completion_tokens"]) == (3, {"length": 3}, 9)
    assert (shown.running, shown.waiting, shown.kv_reserved_bytes, shown.itl_s.count) == (0, 0, 0, 6)
