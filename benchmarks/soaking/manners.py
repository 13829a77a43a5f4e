"""When a client that reads an answer piece by piece stops reading, for a while or for good."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from benchmarks.soaking.records import Record

__all__ = ["enough_after", "stalling"]


def stalling(chance: random.Random) -> Callable[[Record], bool]:
    """Pause for some seconds at the first two pieces, then read to the end."""
    naps = iter([chance.uniform(1, 6), chance.uniform(0, 2)])

    def stall(_: Record) -> bool:
        time.sleep(next(naps, 0.0))
        return False

    return stall


def enough_after(chance: random.Random, pieces: Sequence[int]) -> Callable[[Record], bool]:
    """Stop once more has come than one of ``pieces``."""
    left = chance.choice(pieces)

    def enough(record: Record) -> bool:
        return len(record.seen) > left

    return enough
