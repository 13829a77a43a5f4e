"""Who is next, how many at once, and the counters."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatglm_backend.core import Completed, FinishReason, Timing, Usage
from chatglm_backend.errors import QueueFull
from chatglm_backend.serving.admission import plan_admission
from chatglm_backend.serving.fair_queue import FairQueue
from chatglm_backend.serving.metrics import Histogram, Metrics


def test_sessions_take_turns_oldest_first() -> None:
    """One session's pile does not stand in the way of another's single request."""
    queue: FairQueue[str] = FairQueue(10)
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.push(item[0], item)
    assert [queue.pop() for _ in range(6)] == ["a1", "b1", "c1", "a2", "c2", "a3"]


@given(st.lists(st.sampled_from("abcd"), max_size=30))
def test_the_order_told_is_the_order_served(sessions: list[str]) -> None:
    """Positions shown to visitors are true."""
    queue: FairQueue[int] = FairQueue(100)
    for number, session in enumerate(sessions):
        queue.push(session, number)
    order = queue.order()
    assert [queue.pop() for _ in range(len(queue))] == order


@given(st.integers(1, 8), st.integers(1, 8))
def test_every_round_serves_every_session_once(sessions: int, each: int) -> None:
    """N sessions with M requests each are served in M rounds of N."""
    queue: FairQueue[int] = FairQueue(100)
    for session in range(sessions):
        for _ in range(each):
            queue.push(str(session), session)
    for _ in range(each):
        assert {queue.pop() for _ in range(sessions)} == set(range(sessions))


def test_a_full_queue_says_how_many_wait() -> None:
    """The error counts."""
    queue: FairQueue[int] = FairQueue(1)
    queue.push("a", 1)
    with pytest.raises(QueueFull, match=r"with 1 request\."):
        queue.push("b", 2)


def test_a_removed_item_leaves_no_gap() -> None:
    """Removing twice is harmless, and the rest keeps its order."""
    queue: FairQueue[str] = FairQueue(9)
    for item in ("a1", "b1", "b2"):
        queue.push(item[0], item)
    assert [queue.remove("a", "a1"), queue.remove("a", "a1")] == [True, False]
    assert [len(queue), queue.order(), queue.waiting_for("b")] == [2, ["b1", "b2"], 2]


def test_an_empty_queue_has_nobody() -> None:
    """Peeking gives nothing, popping is an error."""
    queue: FairQueue[int] = FairQueue(1)
    assert queue.peek() is None
    with pytest.raises(IndexError):
        queue.pop()


@pytest.mark.parametrize(("free_gb", "wish", "running"), [(0, None, 1), (1, None, 2), (1000, None, 16), (1, 5, 5)])
def test_admission_follows_free_memory(free_gb: int, wish: int | None, running: int) -> None:
    """ChatGLM-6B takes 458 752 bytes a token; one request may always run."""
    assert plan_admission(free_gb * 10**9, 458_752, max_running=wish).max_running == running


def test_histograms_count_by_upper_bound() -> None:
    """A value on a bound belongs below it, one above all to the rest."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.count, histogram.sum) == ([2, 1, 1], 4, 12.0)


def test_metrics_add_up_tokens_and_reasons() -> None:
    """Two answers, counted."""
    metrics = Metrics()
    for reason in (FinishReason.STOP, FinishReason.LENGTH):
        metrics.completed(Completed(reason, Usage(10, 5, 4, 3, 2), Timing(queue_wait_s=1.0, ttft_s=2.0, total_s=5.0)))
    shown = metrics.snapshot(running=0, waiting=0, kv_reserved_bytes=0)
    assert shown.tokens == asdict(Usage(20, 10, 8, 6, 4))
    assert shown.finished == {"stop": 1, "length": 1}
    assert metrics.mean_running_s == 4.0
