"""A product of the base with the side paths of the fine-tunes whose rows are at hand.

One product over all rows, which reads the weights once, with a side path for each group of rows.
"""

from __future__ import annotations

from torch import Tensor

from chatglm_backend.models.low_rank import multiply
from chatglm_backend.models.ops import Ops
from chatglm_backend.models.rows import Rows
from chatglm_backend.models.weights import Weights


class Adaptable:
    """The product for ``{name}.weight``, which adapters know by this name."""

    __slots__ = ("_linear", "_ops", "name")

    def __init__(self, weights: Weights, name: str, ops: Ops) -> None:
        self.name, self._linear, self._ops = name, weights.linear(name), ops

    def __call__(self, x: Tensor, rows: Rows) -> Tensor:
        """``x`` [rows, in] fp32, contiguous -> [rows, out] fp32. The result may be reused by the next call."""
        found = [(some, adapter.deltas[self.name]) for adapter, some in rows.groups if self.name in adapter.deltas]
        result = multiply(self._linear, x, [(some, delta.low_rank) for some, delta in found if delta.low_rank])
        for some, delta in found:
            if delta.bias is not None:
                self._ops.add_vector(result[some], delta.bias)
        return result
