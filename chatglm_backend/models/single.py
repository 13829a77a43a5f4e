"""One new token of one sequence, the commonest step: recorded once, then repeated as a whole.

Knows when a walk can be repeated and what differs from token to token; the walk itself is the decoder's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chatglm_backend.models.ops import Ops, Replay
from chatglm_backend.models.rows import Rows, Span

__all__ = ["SingleRow"]

Walk = Callable[[Tensor, Rows, Sequence[Span]], Tensor]


class SingleRow:
    """The walk of one row. Not thread-safe."""

    def __init__(self, ops: Ops, hidden_size: int) -> None:
        self._ops = ops
        self._hidden = torch.empty(1, hidden_size)
        self._rows = Rows(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        self._replay: Replay | None = None
        self.possible = True
        """Whether it is worth a call: False once a recording has shown that the walk cannot be repeated."""

    def __call__(self, hidden: Tensor, span: Span, walk: Walk) -> Tensor:
        """``hidden`` [1, hidden] -> logits [1, vocab], valid until the next call.

        ``walk`` takes [1, hidden], the row's positions and its span. It is always the same one, and is not kept: a
        circle of references would keep the model's memory until Python looks for such circles.
        """
        self._hidden.copy_(hidden)
        self._rows.positions[0] = span.plan.position(span.start)
        self._rows.blocks[0] = span.plan.block(span.start)
        if self._replay is not None:
            return self._replay(span.cache.layers(), span.cache.identity, span.start, span.visible[0])
        logits, self._replay = self._ops.record(lambda: walk(self._hidden, self._rows, (span,)))
        self.possible = self._replay is not None
        return logits
