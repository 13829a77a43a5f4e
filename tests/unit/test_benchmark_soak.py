"""The soak test's account finds what it is there to find."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("psutil")

from benchmarks.soak import Account, report, together
from benchmarks.soaking.account import (
    check_bounds,
    check_counters,
    check_kept,
    check_log,
    check_marks,
    check_texts,
    freed_after,
    growth,
)
from benchmarks.soaking.chat import Diary
from benchmarks.soaking.questions import MARKS, Record, questions_for, too_long
from benchmarks.soaking.server import Sample
from chatglm_backend.core import Message
from chatglm_backend.store.conversations import ConversationStore

FIRST, SECOND = (questions_for(number, 512, random.Random(number))[0] for number in (0, 1))
ALONE = {FIRST: "one two three", SECOND: "four five six"}


def records() -> list[Record]:
    """Two finished answers, one that was left, one that was refused, one that was torn off too early to know."""
    return [
        Record(0, "whole", FIRST, "r1", end="stop", text="one two three"),
        Record(1, "streamed", SECOND, "r2", end="length", text="four five six"),
        Record(1, "torn", SECOND, "r3", end="left", text="four"),
        Record(0, "burst", FIRST, end="too_many_requests"),
        Record(0, "torn early", FIRST, end="left"),
    ]


def log() -> list[dict[str, Any]]:
    """What the server says about them; the last was accepted after all."""
    lines: list[dict[str, Any]] = []
    for name, end in {"r1": "stop", "r2": "length", "r3": "cancelled", "r4": "cancelled"}.items():
        lines.append({"message": "request accepted", "request": name})
        lines.append({"message": "request ended", "request": name, "end": end})
    return lines


COUNTERS = {
    "chatglm_running": 0.0,
    "chatglm_waiting": 0.0,
    "chatglm_kv_reserved_bytes": 0.0,
    "chatglm_requests_accepted_total": 4.0,
    'chatglm_requests_finished_total{reason="stop"}': 2.0,
    'chatglm_requests_finished_total{reason="cancelled"}': 2.0,
}


def problems(found: list[Record], lines: list[dict[str, Any]]) -> list[str]:
    """Of all checks that need no counters."""
    return [*check_texts(found, ALONE), *check_marks(found), *check_log(found, lines)]


def test_an_account_that_is_right_has_no_problems() -> None:
    """Also with a request that nobody knows whether it was accepted."""
    assert problems(records(), log()) == []
    assert check_counters(COUNTERS, log()) == []
    for part in ("one,", "one\ufffd"):  # a mark before it was known what follows, and half of a character
        assert check_texts([Record(0, "torn", FIRST, "r3", end="left", text=part)], {FIRST: "one，二"}) == []


Mistake = Callable[[list[Record], list[dict[str, Any]]], object]
MISTAKES: dict[str, Mistake] = {
    "another's text": lambda found, _: setattr(found[0], "text", "four five six"),
    "a piece is missing": lambda found, _: setattr(found[1], "text", "four six"),
    "a piece came twice in a partial answer": lambda found, _: setattr(found[2], "text", "four four"),
    "another visitor's mark was received": lambda found, _: found[0].seen.append(MARKS[1]),
    "an accepted request never ended": lambda _, lines: lines.pop(1),
    "or twice": lambda _, lines: lines.append(lines[1]),
    "the client was told another end": lambda _, lines: lines[1].update(end="cancelled"),
    "a reply broke off without a word": lambda found, _: setattr(found[0], "end", "lost"),
    "two clients got the same request": lambda found, _: setattr(found[1], "request_id", "r1"),
}


@pytest.mark.parametrize("spoil", MISTAKES.values(), ids=MISTAKES.keys())
def test_each_kind_of_mistake_is_found(spoil: Mistake) -> None:
    """One at a time."""
    found, lines = records(), log()
    spoil(found, lines)
    assert problems(found, lines)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("chatglm_running", 1.0),
        ("chatglm_waiting", 1.0),
        ("chatglm_kv_reserved_bytes", 4096.0),
        ("chatglm_requests_accepted_total", 5.0),
        ('chatglm_requests_finished_total{reason="cancelled"}', 3.0),
    ],
)
def test_an_engine_that_is_not_idle_or_counts_wrongly_is_found(name: str, value: float) -> None:
    """By its own counters."""
    assert check_counters({**COUNTERS, name: value}, log())


def test_memory_is_compared_after_the_warm_up() -> None:
    """What came before it does not count."""
    samples = [Sample(float(at), 500 if at < 60 else 1000 + (at >= 240) * 50, 9, 9, 0, 0) for at in range(301)]
    assert growth(samples, 60.0) == (1000, 1050, pytest.approx(0.05))
    assert [growth(some, 60.0) for some in ([], samples[:121], [*samples[:60], *samples[130:]])] == [None] * 3
    assert growth(samples[:122], 60.0) is not None


def test_a_server_whose_memory_was_not_compared_is_told() -> None:
    """Also one without a single sample."""
    brief = Account(records(), 1.0, {}, [], None, [], 0, short=1)
    assert "memory was NOT compared in 2 server(s)" in "\n".join(report(together([brief, brief])))
    assert "memory" not in "\n".join(report(replace(brief, short=0)))


def test_every_visitor_has_a_mark_and_prompts_of_all_sizes() -> None:
    """Marks are never part of each other."""
    assert not any(a != b and a in b for a in MARKS for b in MARKS)
    for number in range(len(MARKS)):
        asked = questions_for(number, 512, random.Random(number))
        sizes = [len(question.text.split()) for question in asked]
        assert min(sizes) < 10
        assert max(sizes) > 250
        assert all(question.mark == MARKS[number] and question.mark in question.text for question in asked)
        assert len(too_long(asked[0], 512).text.split()) >= 512


def test_how_soon_a_request_ends_after_its_client_hung_up() -> None:
    """By the log's clock; requests that ended by themselves do not count."""
    found = [replace(records()[2], left_at=100.0), replace(records()[1], left_at=100.0)]
    ended = [{**line, "time": "1970-01-01T00:01:40.250+00:00"} for line in log()]
    assert freed_after(found, ended) == [pytest.approx(0.25)]


def test_a_kill_costs_only_what_nobody_was_told_of() -> None:
    """What was accepted may have no end then; an end that was told must be in the log."""
    found, lines = records(), log()
    del lines[7]
    assert check_log(found, lines)
    assert not check_log(found, lines, killed=True)
    del lines[1]
    assert check_log(found, lines, killed=True)


def test_an_answer_that_is_gone_is_found(tmp_path: Path) -> None:
    """Said twice and kept once is one gone."""
    file, diary = tmp_path / "history.sqlite3", Diary({"chatglm_visitor_0": "ann.signature"})
    store = ConversationStore(file)
    store.save_answer(store.begin("ann", None, (Message("user", "q"),)), "a", "complete")
    store.close()
    diary.answers["q", "a"] += 1
    assert check_kept(file, [diary]) == []
    diary.answers["q", "a"] += 1
    assert len(check_kept(file, [diary])) == 1


def test_what_outgrows_its_bounds_is_found(tmp_path: Path) -> None:
    """K/V by what they were given."""
    block = tmp_path / "cache" / "kv" / "a" / "000000"
    block.parent.mkdir(parents=True)
    block.write_bytes(bytes(100))
    assert check_bounds(tmp_path, 100) == []
    assert len(check_bounds(tmp_path, 99)) == 1
