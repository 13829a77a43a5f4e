"""Low-bit weights as the models ask for them: packed linears, fp16 embeddings, fp32 vectors.

Knows tensor names only by their endings; where the bytes lie is the business of
:class:`PackedTensors` (a mapped checkpoint, or memory).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from chatglm_backend.errors import WrongShape
from chatglm_backend.int4.bigdl import quantize
from chatglm_backend.int4.kernel import BiasProduct, Kernel, KernelName, LayoutKernel, Product
from chatglm_backend.int4.packing import BLOCK_BYTES, BLOCK_WEIGHTS
from chatglm_backend.int4.select import select_kernel
from chatglm_backend.models.weights import Embedding, Linear


class PackedTensors(Protocol):
    """Tensors by the names of :func:`~chatglm_backend.models.layout.tensor_specs`.

    Linears and the output layer are uint8 [out, in // 64 * 34]; embeddings fp16; vectors fp16 or fp32.
    """

    def get(self, name: str) -> Tensor:
        """The tensor, perhaps mapped; KeyError when there is none."""

    def names(self) -> frozenset[str]:
        """All tensor names."""


class Int4Weights:
    """:class:`~chatglm_backend.models.weights.Weights` over packed tensors and one kernel."""

    def __init__(
        self,
        tensors: PackedTensors,
        kernel: Kernel | KernelName = "auto",
        *,
        layouts: Callable[[str], Tensor] | None = None,
        release: Callable[[str], None] | None = None,
    ) -> None:
        """``kernel`` by name is chosen for this machine.

        ``layouts`` gives a compiled kernel's own bytes by tensor name; ``release`` is told of tensors that a
        kernel has laid out for itself and that are not read again.
        """
        self._tensors = tensors
        self._layouts = layouts
        self._release = release
        self._names = tensors.names()
        self.kernel: Kernel = select_kernel(kernel).kernel if isinstance(kernel, str) else kernel

    def linear(self, name: str) -> Linear:
        """See :class:`~chatglm_backend.models.weights.Weights`. Raises WrongShape for bytes of another form."""
        packed = self._tensors.get(f"{name}.weight")
        if packed.dim() != 2 or packed.dtype is not torch.uint8 or packed.shape[1] % BLOCK_BYTES:
            raise WrongShape(
                tensor=f"{name}.weight",
                path="the low-bit checkpoint",
                found=f"{tuple(packed.shape)} {packed.dtype}",
                expected="rows of INT4 blocks",
            )
        out, in_ = packed.shape[0], packed.shape[1] // BLOCK_BYTES * BLOCK_WEIGHTS
        bias = self.vector(f"{name}.bias") if f"{name}.bias" in self._names else None
        product = self._product(f"{name}.weight", packed, out, in_)
        if bias is None:
            return product
        return product.with_bias(bias) if isinstance(product, BiasProduct) else lambda x: product(x).add_(bias)

    def _product(self, name: str, packed: Tensor, out: int, in_: int) -> Product:
        if self._layouts is not None and isinstance(self.kernel, LayoutKernel):
            return self.kernel.from_layout(self._layouts(name), out, in_)
        product = self.kernel.prepare(packed, out, in_)
        if self._release is not None:
            self._release(name)
        return product

    def own_linear(self, matrix: Tensor) -> tuple[Linear, int]:
        """The product with another ``matrix`` [out, in], quantised for the same kernel, and the bytes that it takes."""
        packed = quantize(matrix.float().contiguous())
        return self.kernel.prepare(packed, *matrix.shape), packed.nbytes

    def embedding(self, name: str) -> Embedding:
        """See :class:`~chatglm_backend.models.weights.Weights`; only the rows asked for are read."""
        table = self._tensors.get(f"{name}.weight")
        return lambda ids: table.index_select(0, ids).float()

    def vector(self, name: str) -> Tensor:
        """See :class:`~chatglm_backend.models.weights.Weights`."""
        return self._tensors.get(name).float().clone()
