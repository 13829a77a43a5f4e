"""What one step of the engine does, decided from the sequences' states alone.

Nobody waits long for anybody: all running answers get their next token in one batch, and between two such batches
only as much of a prompt is read as fits into the time that the batch took. Knows no model and keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from chatglm_backend.engine.options import EngineOptions


class Schedulable(Protocol):
    """What the schedule asks of a sequence; see there."""

    @property
    def cancelled(self) -> bool: ...  # noqa: D102
    @property
    def reading(self) -> bool: ...  # noqa: D102


S = TypeVar("S", bound=Schedulable)


@dataclass(frozen=True, slots=True)
class StepPlan(Generic[S]):
    """``decode`` get their next token together, with ``draft`` tokens if they are few; ``prefill`` is read further."""

    decode: tuple[S, ...] = ()
    draft: bool = False
    prefill: S | None = None


def plan_step(sequences: Sequence[S], options: EngineOptions) -> StepPlan[S]:
    """The next step for ``sequences``, the oldest first. Where one is cancelled it is told so before any work."""
    if any(sequence.cancelled for sequence in sequences):
        return StepPlan()
    decode = tuple(sequence for sequence in sequences if not sequence.reading)
    prefill = next((sequence for sequence in sequences if sequence.reading), None)
    return StepPlan(decode, 0 < len(decode) <= options.draft_max_running, prefill)


def allows_another_unit(options: EngineOptions, units_s: Sequence[float], decode_s: float | None) -> bool:
    """Whether a step that has done prefill units of ``units_s`` seconds may do one more.

    ``decode_s`` is how long its decode took: at least one unit follows, and as many as fit into a share of that time.
    ``None``: nobody decodes, so nobody waits, and units are done at a stretch.
    """
    if decode_s is None:
        return len(units_s) < options.idle_units
    if len(units_s) >= options.prefill_units_per_step:
        return False
    return not units_s or sum(units_s) + max(units_s) <= options.prefill_share * decode_s
