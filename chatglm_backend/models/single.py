"""One new token of one sequence, the commonest step: recorded once, then replayed as a whole.

Knows when a step can be replayed and what differs from token to token; the forward pass itself is the decoder's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chatglm_backend.models.ops import Ops, Replay
from chatglm_backend.models.rows import Rows, Span

Forward = Callable[[Tensor, Rows, Sequence[Span]], Tensor]


class SingleRow:
    """The forward pass of one row. Not thread-safe."""

    def __init__(self, ops: Ops, hidden_size: int) -> None:
        self._ops = ops
        self._hidden = torch.empty(1, hidden_size)
        self._rows = Rows(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        self._replay: Replay | None = None
        self.possible = True
        """Whether it is worth a call: False once a recording has shown that it cannot be replayed."""

    def __call__(self, hidden: Tensor, span: Span, forward: Forward) -> Tensor:
        """``hidden`` [1, hidden] -> logits [1, vocab], valid until the next call.

        ``forward`` takes [1, hidden], the row's positions and its span. It is always the same one, and is not kept: a
        circle of references would keep the model's memory until Python looks for such circles.
        """
        self._hidden.copy_(hidden)
        self._rows.positions[0] = span.plan.position(span.start)
        self._rows.blocks[0] = span.plan.block(span.start)
        if self._replay is not None:
            return self._replay(span.cache.layers(), span.cache.identity, span.start, span.visible[0])
        logits, self._replay = self._ops.record(lambda: forward(self._hidden, self._rows, (span,)))
        self.possible = self._replay is not None
        return logits
