"""How many requests may run at once, from the memory that is free.

Pure arithmetic; who measured the memory is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

_SHARE_OF_FREE_MEMORY = 0.6
_USUAL_TOKENS = 512
_MOST_RUNNING = 16


@dataclass(frozen=True, slots=True)
class Admission:
    """At most ``max_running`` requests at once, which together reserve at most ``kv_budget_bytes``."""

    max_running: int
    kv_budget_bytes: int


def plan_admission(free_bytes: int, kv_bytes_per_token: int, *, max_running: int | None = None) -> Admission:
    """Divide ``free_bytes`` (after the model is loaded) into sequences of a usual length.

    ``max_running`` given by the user wins over the estimate; the memory budget holds either way.
    One request may always run.
    """
    budget = int(max(0, free_bytes) * _SHARE_OF_FREE_MEMORY)
    fitting = budget // max(1, kv_bytes_per_token * _USUAL_TOKENS)
    chosen = max_running if max_running is not None else min(_MOST_RUNNING, fitting)
    return Admission(max_running=max(1, chosen), kv_budget_bytes=budget)
