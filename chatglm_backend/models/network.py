"""What a token's vector passes through, from its id to its logits: the parts that a family puts together.

Knows the order of the parts; a family's :class:`Layer` knows the arithmetic. Knows no caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from chatglm_backend.models.adaptable import Adaptable
from chatglm_backend.models.ops import Ops
from chatglm_backend.models.rows import RowGroup, Rows
from chatglm_backend.models.weights import Embedding


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

    def finish(self, residual: Tensor, attended: Tensor, rows: Rows) -> Tensor:
        """Output projection, residuals and MLP; [rows, hidden] and [rows, heads * head_dim] -> [rows, hidden]."""


@dataclass(frozen=True, slots=True)
class Network:
    """A family's parts, and the operations between their products."""

    embedding: Embedding
    layers: Sequence[Layer]
    final_norm: Callable[[Tensor], Tensor]
    output: Adaptable
    ops: Ops

    def embed(self, ids: Sequence[int], groups: Sequence[RowGroup]) -> Tensor:
        """Token vectors, fp32 [rows, hidden]."""
        wanted = torch.tensor(list(ids), dtype=torch.int64)
        vectors = self.embedding(wanted)
        for adapter, some in groups:
            if adapter.embedding is not None:
                vectors[some] = adapter.embedding(wanted[some])
        return vectors

    def logits(self, hidden: Tensor, rows: Rows) -> Tensor:
        """The final norm and the output layer; valid until the next call."""
        normed = self.final_norm(hidden)
        own = [(adapter.output, some) for adapter, some in rows.groups if adapter.output is not None]
        if len(own) == 1 and own[0][1] == slice(None):
            return own[0][0](normed)
        logits = self.output(normed, rows)
        for output, some in own:
            logits[some] = output(normed[some])
        return logits
