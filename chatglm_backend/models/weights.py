"""What a model asks of whoever holds its weights.

The models know names and shapes; where the bytes lie and which kernel multiplies them is
the business of the rooms that implement these protocols (``int4`` for low-bit checkpoints,
:class:`DenseWeights` for fp32 checks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Linear(Protocol):
    """A matrix product with its bias, if it has one."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """``x`` [rows, in] fp32, contiguous -> [rows, out] fp32. The result may be reused by the next call."""


class Embedding(Protocol):
    """A lookup table of token vectors."""

    def __call__(self, ids: Tensor) -> Tensor:
        """``ids`` [rows] int64 -> [rows, hidden] fp32."""


class Weights(Protocol):
    """All weights of one checkpoint, by the tensor names of the authors' checkpoints."""

    def linear(self, name: str) -> Linear:
        """The product for ``{name}.weight`` and, where it exists, ``{name}.bias``."""

    def embedding(self, name: str) -> Embedding:
        """The lookup for ``{name}.weight``."""

    def vector(self, name: str) -> Tensor:
        """A one-dimensional fp32 tensor, such as a norm's ``{...}.weight`` or ``{...}.bias``."""


class DenseWeights:
    """fp32 weights from a mapping of tensors, for checks against reference logits."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def linear(self, name: str) -> Linear:
        """See :class:`Weights`."""
        weight = self._tensors[f"{name}.weight"].float()
        bias = self._tensors.get(f"{name}.bias")
        bias = None if bias is None else bias.float()
        return lambda x: torch.nn.functional.linear(x, weight, bias)

    def own_linear(self, matrix: Tensor) -> tuple[Linear, int]:
        """The product with another ``matrix`` [out, in], and the bytes that it takes."""
        weight = matrix.float()
        return lambda x: torch.nn.functional.linear(x, weight), weight.nbytes

    def embedding(self, name: str) -> Embedding:
        """See :class:`Weights`."""
        weight = self._tensors[f"{name}.weight"]
        return lambda ids: weight[ids].float()

    def vector(self, name: str) -> Tensor:
        """See :class:`Weights`."""
        return self._tensors[name].float()
