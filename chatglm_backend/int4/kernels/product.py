"""INT4 matrices ready to multiply: bytes in the kernels' layout and the compiled code for them.

Takes portable ``sym_int4`` bytes, or bytes that were laid out before and may be mapped from
a file. Knows tensors and addresses; which variant suits which shape is :mod:`.choose`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from chatglm_backend.errors import WrongShape
from chatglm_backend.int4.kernels.emit import FEW_ROWS
from chatglm_backend.int4.kernels.emit_blocks import Arg
from chatglm_backend.int4.kernels.emit_low_rank import ROW_BLOCK, SideWord, down_ranks
from chatglm_backend.int4.kernels.layout import BLOCK, BLOCK_BYTES, GROUP, LAYOUT_TAG, layout_nbytes, repack
from chatglm_backend.int4.kernels.native import NativeKernels
from chatglm_backend.int4.kernels.team import Team
from chatglm_backend.models.low_rank import Side

ROW_CLASSES = (1, 2, 4, 16, 128)
"""The row counts that stand for one row, two, a few, some, and a prompt's worth when variants are compared."""

PickVariant = Callable[[int, int], Mapping[int, str]]
"""(out, in) -> the variant's name for each of :data:`ROW_CLASSES`."""
_WEIGHTS_PER_NUMBER = 4
"""How many INT4 weights are read in the time that one fp16 number of a side path takes."""


def row_class(rows: int) -> int:
    """Which of :data:`ROW_CLASSES` a call with ``rows`` rows belongs to."""
    if rows <= 2:
        return max(1, rows)
    return 4 if rows <= 4 else 16 if rows <= 32 else 128


def reads_layout(tag: str) -> bool:
    """Whether a layout of this :attr:`~CompiledKernel.layout_tag` is one that today's kernels read, on some CPU."""
    return tag.startswith(f"{LAYOUT_TAG}-")


@dataclass(frozen=True, slots=True)
class _Code:
    """One variant's entry points. ``owner`` keeps the machine code in memory for as long as they are used."""

    owner: NativeKernels

    variant: str
    quantize: int
    few: tuple[int, ...]
    tile: int
    down: int
    ranks: int

    def for_rows(self, rows: int) -> int:
        return self.few[rows - 1] if rows <= len(self.few) else self.tile


class Product:
    """``x @ W.T + bias`` for one INT4 matrix ``[out, in_]``. Activations are rounded to int8 per 64 values."""

    def __init__(
        self, layout: Tensor, out: int, in_: int, code: Mapping[int, _Code], team: Team, bias: Tensor | None = None
    ) -> None:
        self.layout, self.out, self.in_ = layout, out, in_
        self._code, self._team = dict(code), team
        self._groups = -(-out // GROUP)
        self._chunks = layout.data_ptr()
        self._scales = self._chunks + self._groups * (in_ // BLOCK) * GROUP * BLOCK // 2
        self._bias = torch.zeros(self._groups * GROUP)
        if bias is not None:
            self._bias[:out] = bias

    def with_bias(self, bias: Tensor) -> Product:
        """The same product with ``bias`` [out] added; the weights are shared."""
        return Product(self.layout, self.out, self.in_, self._code, self._team, bias)

    def with_sides(self, x: Tensor, sides: Sequence[Side]) -> Tensor:
        """As a call, with the side paths of some rows added; their factors are fp16."""
        return self(x, sides=sides)

    def __call__(self, x: Tensor, into: Tensor | None = None, sides: Sequence[Side] = ()) -> Tensor:
        """``x`` [rows, in_] fp32 -> [rows, out] fp32. Not-a-number in a row stays in that row.

        The result is new, or ``into``: contiguous fp32 [rows, out], for an ``out`` that is a multiple of 16. Memory
        that was written before has no page faults left to take: 6 % or more of a call with 34 MB of results. The
        engine's results are too small to gain by it; it is there for comparisons with others that keep theirs.
        Raises WrongShape.
        """
        if x.dim() != 2 or x.shape[1] != self.in_ or x.dtype != torch.float32:
            raise WrongShape(
                tensor="activations",
                path="memory",
                found=f"{tuple(x.shape)} {x.dtype}",
                expected=f"(rows, {self.in_}) float32",
            )
        if not x.is_contiguous():
            self._team.spoil()
            x = x.contiguous()
        rows, padded = x.shape[0], self._groups * GROUP
        if into is None:
            result = self._team.empty(rows, padded)
        elif into.shape == (rows, padded) == (rows, self.out) and into.is_contiguous() and into.dtype == torch.float32:
            self._team.spoil()  # A recording would not keep memory of the caller's.
            result = into
        else:
            raise WrongShape(
                tensor="memory for results",
                path="memory",
                found=f"{tuple(into.shape)} {into.dtype}",
                expected=f"({rows}, {padded}) contiguous float32",
            )
        if rows:
            self._multiply(x, result, rows, padded, sides)
        if padded == self.out:
            return result
        if rows > 1:
            self._team.spoil()
        return result[:, : self.out].contiguous()

    def _multiply(self, x: Tensor, result: Tensor, rows: int, padded: int, sides: Sequence[Side]) -> None:
        team, code = self._team, self._code[row_class(rows)]
        with team.lock:
            team.work.reserve(rows, self.in_ // BLOCK)
            args = team.work.args
            args[Arg.CHUNKS], args[Arg.SCALES] = self._chunks, self._scales
            args[Arg.X], args[Arg.OUT], args[Arg.OUT_STRIDE] = x.data_ptr(), result.data_ptr(), padded
            args[Arg.BIAS] = self._bias.data_ptr()
            args[Arg.SIDE_COUNT] = len(sides)
            if sides:
                self._begin_sides(sides, rows, code)
            team.run(code.quantize, code.for_rows(rows), rows, self.in_, self._groups)

    def _begin_sides(self, sides: Sequence[Side], rows: int, code: _Code) -> None:
        """The first factors of all side paths in one step; the kernels find the rest of them in a table."""
        team, table, items, numbers = self._team, [], 0, 0
        for some, factors in sides:
            first, last, _ = some.indices(rows)
            rank, before = len(factors.down), items
            items += -(-(last - first) // ROW_BLOCK) * (rank // code.ranks)
            scale = int(np.float32(factors.scale).view(np.int32))
            down, up = factors.down.data_ptr(), factors.up.data_ptr()
            table.append((first, last, down, up, 4 * numbers, rank, scale, before, items))
            numbers += (last - first) * rank
            team.keep(factors)
        between, words = team.empty(1, numbers), np.array(table, np.int64)
        words[:, SideWord.BETWEEN] += between.data_ptr()
        team.work.sides = (between, words)
        team.keep(words)
        args = team.work.args
        args[Arg.SIDES], args[Arg.BLOCKS] = words.ctypes.data, self.in_ // BLOCK
        team.share(code.down, args, items, work=numbers * self.in_ * _WEIGHTS_PER_NUMBER)

    @property
    def variants(self) -> dict[int, str]:
        """The variant in use for each of :data:`ROW_CLASSES`."""
        return {rows: code.variant for rows, code in self._code.items()}


class CompiledKernel:
    """Makes :class:`Product` objects. ``kernels`` by variant name; ``pick`` names the variant for each shape."""

    name = "vnni"

    def __init__(self, team: Team, kernels: Mapping[str, NativeKernels], pick: PickVariant) -> None:
        self.team, self._pick = team, pick
        self._kernels = kernels
        self._code: dict[str, _Code] = {}

    @property
    def layout_tag(self) -> str:
        """Names the layout and the widest CPU features that it is read with: what a kept layout was made for."""
        return f"{LAYOUT_TAG}-{next(iter(self._kernels))}"

    def prepare(self, packed: Tensor, out: int, in_: int) -> Product:
        """From portable bytes, uint8 [out, in_ // 64 * 34]; they are copied, not kept."""
        expected = (out, in_ // BLOCK * BLOCK_BYTES)
        if packed.dtype != torch.uint8 or packed.numel() != expected[0] * expected[1]:
            raise WrongShape(
                tensor="portable INT4 bytes",
                path="memory",
                found=f"{tuple(packed.shape)} {packed.dtype}",
                expected=f"{expected} uint8",
            )
        layout = _aligned(layout_nbytes(out, in_))
        repack(packed.contiguous().numpy(), out, in_, layout.numpy(), threads=self.team.threads)
        return self.from_layout(layout, out, in_)

    def from_layout(self, layout: Tensor, out: int, in_: int) -> Product:
        """From bytes that :func:`~.layout.repack` made, flat uint8; kept and read in place (they may be mapped)."""
        if layout.dtype != torch.uint8 or layout.numel() != layout_nbytes(out, in_) or not layout.is_contiguous():
            raise WrongShape(
                tensor="laid-out INT4 bytes",
                path="memory",
                found=f"{layout.numel()} of {layout.dtype}",
                expected=f"{layout_nbytes(out, in_)} contiguous of torch.uint8",
            )
        chosen = self._pick(out, in_)
        return Product(layout, out, in_, {rows: self._variant(chosen[rows]) for rows in ROW_CLASSES}, self.team)

    def _variant(self, name: str) -> _Code:
        if name not in self._code:
            self._code[name] = _code_of(self._kernels[name])
        return self._code[name]


def _code_of(native: NativeKernels) -> _Code:
    at = native.addresses
    return _Code(
        native,
        native.variant.name,
        at["quantize"],
        tuple(at[f"rows_{m}"] for m in FEW_ROWS),
        at["tile"],
        at["down"],
        down_ranks(native.variant),
    )


def _aligned(nbytes: int) -> Tensor:
    """Uninitialised bytes that start on a cache line."""
    spare = torch.empty(nbytes + 64, dtype=torch.uint8)
    return spare[-spare.data_ptr() % 64 :][:nbytes]
