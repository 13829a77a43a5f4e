"""What a step does, by the states of the sequences: no model anywhere."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.engine.schedule import StepPlan, allows_another_unit, plan_step

OPTIONS = EngineOptions(draft_max_running=2, idle_units=3, prefill_units_per_step=5)


@dataclass(frozen=True)
class Asked:
    """A sequence as the schedule sees it."""

    name: str
    reading: bool = False
    cancelled: bool = False


A, B, C = Asked("a"), Asked("b"), Asked("c")
READ, LATER = Asked("read", reading=True), Asked("later", reading=True)


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([], StepPlan()),
        ([A], StepPlan((A,), draft=True)),
        ([A, B, C], StepPlan((A, B, C), draft=False)),
        ([READ, LATER], StepPlan(prefill=READ)),
        ([A, READ, B, LATER], StepPlan((A, B), draft=True, prefill=READ)),
        ([A, READ, Asked("gone", cancelled=True)], StepPlan()),
    ],
    ids=["nobody", "one", "too many to draft", "prompts only", "both", "somebody left"],
)
def test_who_decodes_and_whose_prompt_is_read(sequences: list[Asked], expected: StepPlan[Asked]) -> None:
    """All who can write do; of several prompts the oldest goes on; a cancelled one is told so before any work."""
    assert plan_step(sequences, OPTIONS) == expected


def units(unit_s: list[float], decode_s: float | None, options: EngineOptions = OPTIONS) -> int:
    """Return how many of units that take so long are done."""
    done: list[float] = []
    while allows_another_unit(options, done, decode_s):
        done.append(unit_s[len(done) % len(unit_s)])
    return len(done)


@pytest.mark.parametrize(
    ("unit_s", "decode_s", "expected"),
    [
        ([0.1], None, 3),
        ([100.0], None, 3),
        ([0.25], 1.0, 4),
        ([0.25], 0.9, 3),
        ([10.0], 1.0, 1),
        ([0.5, 0.1], 1.0, 2),
        ([0.0], 1.0, 5),
        ([1.0], 0.0, 1),
    ],
)
def test_how_many_units_follow(unit_s: list[float], decode_s: float | None, expected: int) -> None:
    """At a stretch where nobody waits; else one, and more while the slowest so far would still fit."""
    assert units(unit_s, decode_s) == expected


def test_a_larger_share_lets_prompts_go_first() -> None:
    """Twice the decode time takes twice the units."""
    assert units([0.5], 1.0, EngineOptions(prefill_share=2.0)) == 4
