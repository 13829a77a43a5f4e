"""The seam between weights and the code that multiplies them.

A kernel takes bigdl's ``sym_int4`` bytes and gives back a product. It may keep the bytes
as they are (a mapped file) or lay them out anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor

KernelName = Literal["auto", "vnni", "bigdl", "exact"]
"""``auto`` is the fastest that runs here; ``exact`` multiplies with the dequantised weights."""

Product = Callable[[Tensor], Tensor]
"""``x`` [rows, in] fp32, contiguous -> [rows, out] fp32, valid until the same product is called again."""


class Kernel(Protocol):
    """One way to multiply with packed weights."""

    @property
    def name(self) -> str:
        """What pages and reports call it."""

    def prepare(self, packed: Tensor, out: int, in_: int) -> Product:
        """``packed`` uint8 [out, in // 64 * 34], perhaps mapped from a file -> the product with it."""


@runtime_checkable
class LayoutKernel(Kernel, Protocol):
    """A kernel that lays the bytes out anew, and takes them back laid out, perhaps mapped from a file."""

    def from_layout(self, layout: Tensor, out: int, in_: int) -> Product:
        """``layout`` is what the kernel's own packing made of [out, in_] weights; kept and read in place."""


@runtime_checkable
class BiasProduct(Protocol):
    """A product that can add a bias by itself, cheaper than afterwards."""

    def with_bias(self, bias: Tensor) -> Product:
        """The same product with ``bias`` fp32 [out] added to every row."""
