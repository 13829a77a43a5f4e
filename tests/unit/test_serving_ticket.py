"""Tickets and their readers, over an engine that a test steps by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chatglm_backend.core import (
    Completed,
    FinishReason,
    TokenEvent,
)
from chatglm_backend.errors import (
    EngineFailure,
)
from chatglm_backend.serving.ticket import Logged, Ticket
from tests.unit.serving_helpers import FakeEngine, ask, followed, lines, reason_of


@pytest.fixture
def engine() -> FakeEngine:
    """An engine whose gate is closed."""
    return FakeEngine()


@pytest.fixture
def make(engine: FakeEngine) -> Iterator[Any]:
    """A maker of workers that are closed afterwards."""
    with lines(engine) as build:
        yield build


def test_a_ticket_gives_every_event_in_order(make: Any, engine: FakeEngine) -> None:
    """Tokens, then the end, and the text is theirs."""
    engine.gate.set()
    ticket = make().submit(ask("a"))
    assert [type(e) for e in ticket.events()] == [TokenEvent, TokenEvent, TokenEvent, Completed]
    assert ticket.text == "a0 a1 a2 "


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
