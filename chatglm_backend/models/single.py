"""One new token of one sequence, the commonest step: recorded once, then replayed as a whole.

Knows when a step can be replayed and what differs from token to token; the forward pass itself is the decoder's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from chatglm_backend.models.ops import Ops, Replay
from chatglm_backend.models.rows import RowGroup, Rows, Span

_REPLAYS_KEPT = 9
"""The base's and those of eight fine-tunes; each takes some hundred kilobytes."""

Forward = Callable[[Tensor, Rows, Sequence[Span]], Tensor]


class SingleRow:
    """The forward pass of one row. Not thread-safe."""

    def __init__(self, ops: Ops, hidden_size: int) -> None:
        self._ops = ops
        self._hidden = torch.empty(1, hidden_size)
        self._rows = Rows(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        self._replays: OrderedDict[str, Replay] = OrderedDict()
        self.possible = True
        """Whether it is worth a call: False once a recording has shown that it cannot be replayed."""

    def __call__(self, hidden: Tensor, span: Span, groups: tuple[RowGroup, ...], forward: Forward) -> Tensor:
        """``hidden`` [1, hidden] -> logits [1, vocab], valid until the next call.

        ``forward`` takes [1, hidden], the row's positions and its span. It is always the same one, and is not kept: a
        circle of references would keep the model's memory until Python looks for such circles.
        """
        self._hidden.copy_(hidden)
        self._rows.positions[0] = span.plan.position(span.start)
        self._rows.blocks[0] = span.plan.block(span.start)
        cache = span.cache
        name = groups[0][0].identity if groups else ""
        replay = self._replays.get(name)
        if replay is not None:
            self._replays.move_to_end(name)
            return replay(cache.layers(), cache.identity, cache.lead + span.start, span.visible[0])
        rows = replace(self._rows, groups=groups)
        logits, replay = self._ops.record(lambda: forward(self._hidden, rows, (span,)))
        if replay is not None:
            self._replays[name] = replay
        while len(self._replays) > _REPLAYS_KEPT:
            self._replays.popitem(last=False)
        self.possible = self.possible and (replay is not None or bool(name))
        return logits
