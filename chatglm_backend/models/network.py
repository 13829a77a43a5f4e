"""What a token's vector passes through, from its id to its logits: the parts that a family puts together.

Knows the order of the parts; a family's :class:`Layer` knows the arithmetic. Knows no caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from chatglm_backend.models.ops import Ops
from chatglm_backend.models.rows import Rows
from chatglm_backend.models.weights import Embedding, Linear


@dataclass(frozen=True, slots=True)
class Projected:
    """What a layer makes of its input before attention, fp32.

    ``residual`` [rows, hidden] is what the attention's result is added to; ``q`` is
    [rows, heads, head_dim], ``k`` and ``v`` [rows, kv_heads, head_dim], all rotated already.
    """

    residual: Tensor
    q: Tensor
    k: Tensor
    v: Tensor


class Layer(Protocol):
    """One block of a family, in two halves around attention."""

    def project(self, hidden: Tensor, rows: Rows) -> Projected:
        """``hidden`` [rows, hidden] fp32 is left as it is."""

    def finish(self, residual: Tensor, attended: Tensor) -> Tensor:
        """Output projection, residuals and MLP; [rows, hidden] and [rows, heads * head_dim] -> [rows, hidden]."""


@dataclass(frozen=True, slots=True)
class Network:
    """A family's parts, and the operations between their products."""

    embedding: Embedding
    layers: Sequence[Layer]
    final_norm: Callable[[Tensor], Tensor]
    output: Linear
    ops: Ops

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Token vectors, fp32 [rows, hidden]."""
        return self.embedding(torch.tensor(list(ids), dtype=torch.int64))

    def logits(self, hidden: Tensor) -> Tensor:
        """The final norm and the output layer; valid until the next call."""
        return self.output(self.final_norm(hidden))
