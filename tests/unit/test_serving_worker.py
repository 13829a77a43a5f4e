"""The worker thread and its tickets, over an engine that a test steps by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chatglm_backend.core import (
    FinishReason,
    Queued,
)
from chatglm_backend.errors import (
    EngineFailure,
    InvalidRequest,
    NoMemoryForPrompt,
    QueueFull,
    ShuttingDown,
    TooManyRequests,
)
from tests.unit.serving_helpers import WAIT, FakeEngine, Line, ask, lines, reason_of


@pytest.fixture
def engine() -> FakeEngine:
    """An engine whose gate is closed."""
    return FakeEngine()


@pytest.fixture
def make(engine: FakeEngine) -> Iterator[Any]:
    """A maker of workers that are closed afterwards."""
    with lines(engine) as build:
        yield build


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


def test_counters_follow_the_work(make: Any, engine: FakeEngine) -> None:
    """Accepted, finished, tokens, and nothing left at the end."""
    worker = make()
    engine.reasons(*(worker.submit(ask(f"r{n}")) for n in range(3)))
    shown = worker.metrics()
    assert (shown.accepted, shown.finished, shown.tokens["completion_tokens"]) == (3, {"length": 3}, 9)
    assert (shown.running, shown.waiting, shown.kv_reserved_bytes, shown.itl_s.count) == (0, 0, 0, 6)
