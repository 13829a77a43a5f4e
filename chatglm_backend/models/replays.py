"""Decode steps of one row or a few, the commonest: recorded once, then replayed as a whole.

Knows which steps can be replayed and what differs from step to step; the forward pass itself is the decoder's.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.ops import Ops, Place, Replay
from chatglm_backend.models.rows import Rows

_MOST_ROWS = 16
_KEPT = 64
"""Recordings; each takes some 0.2 MB for its steps, and all of them share the memory that results lie in."""

Forward = Callable[[Tensor, Rows, Sequence[Place]], Tensor]
_Kind = tuple[int, bool, tuple[tuple[int, int, int], ...]]
"""How many rows, whether all are one sequence's, and which of them are which fine-tune's, by the address of that."""


class Replays:
    """The forward pass of a decode step. Not thread-safe.

    Recordings hold a fine-tune's factors, and go when nobody holds the fine-tune any more.
    """

    def __init__(self, ops: Ops, hidden_size: int) -> None:
        self._ops = ops
        self._hidden = torch.empty(_MOST_ROWS, hidden_size)
        self._positions, self._blocks = torch.zeros(2, _MOST_ROWS, dtype=torch.int64)
        self._replays: OrderedDict[_Kind, Replay | None] = OrderedDict()
        self._tunes: dict[int, weakref.ref[Adapter]] = {}
        self.recorded = False
        """Whether the last step was recorded, which takes longer than to replay it."""

    def __call__(self, hidden: Tensor, rows: Rows, places: Sequence[Place], forward: Forward) -> Tensor:
        """``hidden`` [rows, hidden] -> logits [rows, vocab], valid until the next call.

        ``forward`` is always the same one, and is not kept: a circle of references would keep the model's memory
        until Python looks for such circles.
        """
        count, self.recorded = len(places), False
        # An output layer for some of the rows only is put among the others by torch, which is no step.
        if count > _MOST_ROWS or any(some != slice(None) and who.output is not None for who, some in rows.groups):
            return forward(hidden, rows, places)
        alone = all(place.identity is places[0].identity for place in places)
        kind = count, alone, tuple((id(who), *some.indices(count)[:2]) for who, some in rows.groups)
        replay = self._replays.get(kind)
        if kind in self._replays:
            self._replays.move_to_end(kind)
            if replay is None:  # a recording has shown that it cannot be replayed
                return forward(hidden, rows, places)
        self._hidden[:count], self._positions[:count], self._blocks[:count] = hidden, rows.positions, rows.blocks
        if replay is not None:
            return replay(places)
        mine = replace(rows, positions=self._positions[:count], blocks=self._blocks[:count])
        start = self._hidden[:count]
        self.recorded = True
        logits, self._replays[kind] = self._ops.record(lambda: forward(start, mine, places), places)
        for who, _ in rows.groups:
            if id(who) not in self._tunes:
                self._tunes[id(who)] = weakref.ref(who, _forget(id(who), self._tunes, self._replays))
        if len(self._replays) > _KEPT:
            self._replays.popitem(last=False)
        return logits


def _forget(
    tune: int, tunes: dict[int, weakref.ref[Adapter]], replays: OrderedDict[_Kind, Replay | None]
) -> Callable[[weakref.ref[Adapter]], None]:
    """Drops the recordings with a fine-tune that has gone. Runs in any thread; no step at hand has such rows."""

    def forget(_: weakref.ref[Adapter]) -> None:
        tunes.pop(tune, None)
        for kind in list(replays):
            if any(one == tune for one, *_ in kind[2]):
                replays.pop(kind, None)

    return forget
