"""Writes what all product kernels share: reading a block's weights, and its dot products with some rows.

Says what the argument block means. Which rows and blocks are walked through in what order is
:mod:`.emit`'s business.
"""

from __future__ import annotations

from enum import IntEnum

from llvmlite import ir

from chatglm_backend.int4.kernels.layout import BLOCK, GROUP
from chatglm_backend.int4.kernels.variants import Prefetch, Variant
from chatglm_backend.int4.kernels.writer import F16, F32, I32, I64, KernelWriter, Values

_CHUNKS = 8
_CHUNK_BYTES = GROUP * 4


class Arg(IntEnum):
    """Words of the argument block: addresses, then counts. ``ROWS`` is all rows, ``ROW0``..``ROW1`` those to do.

    ``BIAS`` is fp32 for every group's rows, zeros where there is none. ``SIDES`` is a table of ``SIDE_COUNT`` side
    paths, see :class:`.emit_low_rank.SideWord`.
    """

    CHUNKS = 0
    SCALES = 1
    X = 2
    XQ = 3
    XS = 4
    XC = 5
    OUT = 6
    BLOCKS = 7
    ROWS = 8
    OUT_STRIDE = 9
    ROW0 = 10
    ROW1 = 11
    BIAS = 12
    SIDES = 13
    SIDE_COUNT = 14


class BlockProducts(KernelWriter):
    """What the two product kernels share: reading weights, and the dot products of one 64-block."""

    def __init__(self, module: ir.Module, variant: Variant, name: str) -> None:
        super().__init__(module, variant, name)
        self.parts = GROUP // self.lanes
        (self.chunks, self.scales, self.xq, self.xs, self.xc, self.out, self.blocks, self.rows, self.out_stride) = (
            self.arg(a)
            for a in (
                Arg.CHUNKS,
                Arg.SCALES,
                Arg.XQ,
                Arg.XS,
                Arg.XC,
                Arg.OUT,
                Arg.BLOCKS,
                Arg.ROWS,
                Arg.OUT_STRIDE,
            )
        )

    def prefetch(self, wanted: Prefetch | None, group: ir.Value, k: ir.Value) -> None:
        """Ask for the nibbles of a block further on, if this is ``wanted``; past the end this is harmless."""
        if wanted is None:
            return
        b = self.builder
        place = b.add(b.mul(group, self.blocks), k)
        ahead = self.offset(self.offset(self.chunks, place, _CHUNKS * _CHUNK_BYTES), wanted.ahead)
        for line in range(wanted.lines):
            self.ask_for(self.offset(ahead, line * _CHUNK_BYTES), wanted.level)

    def weights(self, group: ir.Value, k: ir.Value, part: int) -> tuple[Values, ir.Value]:
        """The 16 vectors of nibbles of block ``k``, in the order of the activations, and the scales."""
        b = self.builder
        place = b.add(b.mul(group, self.blocks), k)
        base = self.offset(self.offset(self.chunks, place, _CHUNKS * _CHUNK_BYTES), part * self.lanes * 4)
        low, high = [], []
        mask = ir.Constant(self.int_vector, [0x0F0F0F0F] * self.lanes)
        four = ir.Constant(self.int_vector, [4] * self.lanes)
        for chunk in range(_CHUNKS):
            both = self.load(self.offset(base, chunk * _CHUNK_BYTES), self.int_vector)
            low.append(b.and_(both, mask))
            high.append(b.and_(b.lshr(both, four), mask))
        return low + high, self.block_scales(group, k, part)

    def block_scales(self, group: ir.Value, k: ir.Value, part: int = 0) -> ir.Value:
        """The fp32 scales of block ``k``."""
        place = self.builder.add(self.builder.mul(group, self.blocks), k)
        address = self.offset(self.offset(self.scales, place, GROUP * 2), part * self.lanes * 2)
        return self.builder.fpext(self.load(address, ir.VectorType(F16, self.lanes)), self.float_vector)

    def block_products(
        self, weights: Values, scales: ir.Value, k: ir.Value, row: ir.Value, count: int, sums: Values
    ) -> Values:
        """Add one block's products for ``count`` rows from ``row`` on to the fp32 ``sums``."""
        b = self.builder
        places = [b.add(b.add(b.mul(k, self.rows), row), ir.Constant(I64, m)) for m in range(count)]
        sources = [self.offset(self.xq, p, BLOCK) for p in places]
        offsets = [self.splat(self.load(self.offset(self.xc, p, 4), I32, align=4), self.lanes) for p in places]
        totals = (
            self._vnni(weights, sources, offsets) if self.variant.uses_vnni else self._avx2(weights, sources, offsets)
        )
        after = []
        for place, total, current in zip(places, totals, sums, strict=True):
            x_scale = self.splat(self.load(self.offset(self.xs, place, 4), F32, align=4), self.lanes)
            factors = b.fmul(scales, x_scale)
            name = f"llvm.fma.v{self.lanes}f32"
            after.append(self.call(name, self.float_vector, [b.sitofp(total, self.float_vector), factors, current]))
        return after

    def _activations(self, source: ir.Value, index: int) -> ir.Value:
        return self.splat(self.load(self.offset(source, index * 4), I32, align=4), self.lanes)

    def _vnni(self, weights: Values, sources: Values, offsets: Values) -> Values:
        name = f"llvm.x86.avx512.vpdpbusd.{self.lanes * 32}"
        zeros = ir.Constant(self.int_vector, [0] * self.lanes)
        even, odd = list(offsets), [zeros] * len(offsets)
        for index in range(0, len(weights), 2):
            for m, source in enumerate(sources):
                even[m] = self._vpdpbusd(name, even[m], weights[index], self._activations(source, index))
                odd[m] = self._vpdpbusd(name, odd[m], weights[index + 1], self._activations(source, index + 1))
        return [self.builder.add(a, b) for a, b in zip(even, odd, strict=True)]

    def _vpdpbusd(self, name: str, total: ir.Value, weights: ir.Value, activations: ir.Value) -> ir.Value:
        return self.call(name, self.int_vector, [total, weights, activations])

    def _avx2(self, weights: Values, sources: Values, offsets: Values) -> Values:
        """Pairs of products fit int16 eight times over: 8 x 2 x 15 x 127 = 30480."""
        b = self.builder
        words = ir.VectorType(ir.IntType(16), self.lanes * 2)
        ones = ir.Constant(words, [1] * (self.lanes * 2))
        totals = list(offsets)
        for half in (range(_CHUNKS), range(_CHUNKS, 2 * _CHUNKS)):
            pairs = [ir.Constant(words, [0] * (self.lanes * 2))] * len(sources)
            for index in half:
                unsigned = b.bitcast(weights[index], self.byte_vector)
                for m, source in enumerate(sources):
                    signed = b.bitcast(self._activations(source, index), self.byte_vector)
                    pairs[m] = b.add(pairs[m], self.call("llvm.x86.avx2.pmadd.ub.sw", words, [unsigned, signed]))
            for m, pair in enumerate(pairs):
                totals[m] = b.add(totals[m], self.call("llvm.x86.avx2.pmadd.wd", self.int_vector, [pair, ones]))
        return totals

    def biased(self, sums: ir.Value, group: ir.Value, part: int) -> ir.Value:
        """Sums of a part of a group, with the bias added."""
        place = self.offset(self.offset(self.arg(Arg.BIAS), group, GROUP * 4), part * self.lanes * 4)
        return self.builder.fadd(sums, self.load(place, self.float_vector, align=4))

    def out_address(self, row: ir.Value, group: ir.Value, part: int) -> ir.Value:
        """Where a row's results for a part of a group belong."""
        b = self.builder
        place = b.add(b.mul(row, self.out_stride), b.mul(group, ir.Constant(I64, GROUP)))
        return self.offset(self.offset(self.out, place, 4), part * self.lanes * 4)
