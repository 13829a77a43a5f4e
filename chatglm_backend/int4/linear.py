"""A packed linear layer: a kernel's product and the bias that it does not add by itself."""

from __future__ import annotations

from torch import Tensor

from chatglm_backend.int4.kernel import Product


class Int4Linear:
    """See :class:`~chatglm_backend.models.weights.Linear`."""

    __slots__ = ("_bias", "_product")

    def __init__(self, product: Product, bias: Tensor) -> None:
        """``bias`` fp32 [out]."""
        self._product = product
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """``x`` [rows, in] fp32 -> [rows, out] fp32, valid until the next call."""
        return self._product(x).add_(self._bias)
