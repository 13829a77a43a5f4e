"""Writes the kernels as LLVM code: quantising activations, products of few rows, products of many.

Every kernel is ``void (i64 args, i64 first, i64 last, i64 scratch)``: ``args`` is the address of
int64 words in the order of :class:`Arg`, ``first``/``last`` a range of work (64-blocks for
the quantisation, groups of 16 output rows for the products), ``scratch`` floats of the caller's.

Activations are int8 in [blocks, rows, 64], their scales fp32 and their offsets int32 in
[blocks, rows]; an offset is -8 x the block's sum and undoes the +8 of the stored nibbles.
Knows nothing of Python arrays, threads or files.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from llvmlite import ir

from chatglm_backend.int4.kernels.layout import BLOCK, GROUP
from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.int4.kernels.writer import F16, F32, I8, I32, I64, KernelWriter, Values

__all__ = ["FEW_ROWS", "Arg", "build_module"]

FEW_ROWS = (1, 2, 3, 4)
"""Row counts with a kernel of their own, which keeps all sums in registers."""

_CHUNKS = 8
_CHUNK_BYTES = GROUP * 4
_PREFETCH_BYTES = 8192
"""How far ahead weights are asked for; the hardware's own prefetching stops at pages of 4 KiB."""
_EXPONENT_ALL_ONES = 0x7F800000


class Arg(IntEnum):
    """Words of the argument block: addresses, then counts. ``ROWS`` is all rows, ``ROW0``..``ROW1`` those to do."""

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
    PANEL = 12


def build_module(variant: Variant, triple: str) -> ir.Module:
    """All kernels of one variant, as a module named after it."""
    module = ir.Module(name=f"int4_{variant.name}")
    module.triple = triple
    _Quantize(module, variant, "quantize").emit()
    for rows in FEW_ROWS:
        _FewRows(module, variant, f"rows_{rows}").emit(rows)
    _Tile(module, variant, "tile").emit()
    return module


class _Quantize(KernelWriter):
    """fp32 [rows, blocks * 64] -> int8, scales, offsets, for a range of blocks.

    The magnitudes are compared as integers, where NaN and infinity are the largest: such a
    block gets the scale NaN and zeros, so its row's results are NaN, as exact arithmetic's mostly are.
    """

    def emit(self) -> None:
        rows, blocks = self.arg(Arg.ROWS), self.arg(Arg.BLOCKS)
        x, xq, xs, xc = (self.arg(a) for a in (Arg.X, Arg.XQ, Arg.XS, Arg.XC))
        zero = ir.Constant(I64, 0)

        def block(k: ir.Value, _: Values) -> Values:
            def row(m: ir.Value, _: Values) -> Values:
                b = self.builder
                source = self.offset(x, b.add(b.mul(m, blocks), k), BLOCK * 4)
                place = b.add(b.mul(k, rows), m)
                quantized, scale, offset = self._block(source)
                self.store(quantized, self.offset(xq, place, BLOCK))
                self.store(scale, self.offset(xs, place, 4), align=4)
                self.store(offset, self.offset(xc, place, 4), align=4)
                return []

            self.loop(zero, rows, 1, [], row)
            return []

        self.loop(self.first, self.last, 1, [], block)
        self.builder.ret_void()

    def _block(self, source: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
        b = self.builder
        ints, floats = ir.VectorType(I32, BLOCK), ir.VectorType(F32, BLOCK)
        values = self.load(source, floats, align=4)
        sizes = b.and_(b.bitcast(values, ints), ir.Constant(ints, [0x7FFFFFFF] * BLOCK))
        largest = self.call(f"llvm.vector.reduce.umax.v{BLOCK}i32", I32, [sizes])
        finite = b.icmp_unsigned("<", largest, ir.Constant(I32, _EXPONENT_ALL_ONES))
        scale = b.fdiv(b.bitcast(largest, F32), ir.Constant(F32, 127.0))
        usable = b.and_(finite, b.fcmp_ordered(">", scale, ir.Constant(F32, 1e-37)))
        inverse = b.fdiv(ir.Constant(F32, 1.0), b.select(usable, scale, ir.Constant(F32, 1.0)))
        inverse = b.select(usable, inverse, ir.Constant(F32, 0.0))
        safe = b.select(finite, values, ir.Constant(floats, [0.0] * BLOCK))
        rounded = self.call(f"llvm.rint.v{BLOCK}f32", floats, [b.fmul(safe, self.splat(inverse, BLOCK))])
        wide = b.fptosi(rounded, ints)
        total = self.call(f"llvm.vector.reduce.add.v{BLOCK}i32", I32, [wide])
        scale = b.select(finite, scale, ir.Constant(F32, float("nan")))
        return b.trunc(wide, ir.VectorType(I8, BLOCK)), scale, b.mul(total, ir.Constant(I32, -8))


class _Product(KernelWriter):
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

    def prefetch(self, group: ir.Value, k: ir.Value) -> None:
        """Ask for the nibbles of a block further on; past the end this is harmless."""
        b = self.builder
        place = b.add(b.mul(group, self.blocks), k)
        ahead = self.offset(self.offset(self.chunks, place, _CHUNKS * _CHUNK_BYTES), _PREFETCH_BYTES)
        for chunk in range(_CHUNKS):
            address = b.inttoptr(self.offset(ahead, chunk * _CHUNK_BYTES), I8.as_pointer())
            self.call("llvm.prefetch.p0", ir.VoidType(), [address, *(ir.Constant(I32, v) for v in (0, 3, 1))])

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
        address = self.offset(self.offset(self.scales, place, GROUP * 2), part * self.lanes * 2)
        scales = b.fpext(self.load(address, ir.VectorType(F16, self.lanes)), self.float_vector)
        return low + high, scales

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

    def out_address(self, row: ir.Value, group: ir.Value, part: int) -> ir.Value:
        b = self.builder
        place = b.add(b.mul(row, self.out_stride), b.mul(group, ir.Constant(I64, GROUP)))
        return self.offset(self.offset(self.out, place, 4), part * self.lanes * 4)


class _FewRows(_Product):
    """A fixed, small number of rows from ``ROW0`` on: one pass over the weights, sums in registers."""

    def emit(self, count: int) -> None:
        first_row = self.arg(Arg.ROW0)
        zeros = [ir.Constant(self.float_vector, [0.0] * self.lanes)] * (count * self.parts)

        def group(g: ir.Value, _: Values) -> Values:
            def block(k: ir.Value, sums: Values) -> Values:
                after: Values = []
                self.prefetch(g, k)
                for part in range(self.parts):
                    weights, scales = self.weights(g, k, part)
                    mine = sums[part * count : (part + 1) * count]
                    after += self.block_products(weights, scales, k, first_row, count, mine)
                return after

            sums = self.loop(ir.Constant(I64, 0), self.blocks, 1, list(zeros), block)
            for part in range(self.parts):
                for m in range(count):
                    row = self.builder.add(first_row, ir.Constant(I64, m))
                    self.store(sums[part * count + m], self.out_address(row, g, part), align=4)
            return []

        self.loop(self.first, self.last, 1, [], group)
        self.builder.ret_void()


class _Tile(_Product):
    """Rows ``ROW0``..``ROW1``: a block's weights stay in registers while all the rows pass.

    The sums of a group wait in ``scratch`` (16 floats a row). ``PANEL`` blocks are done for
    every group before the next ones, so that this part of the activations stays in the L2 cache.
    """

    def emit(self) -> None:
        zero = ir.Constant(I64, 0)
        row0, row1, panel = self.arg(Arg.ROW0), self.arg(Arg.ROW1), self.arg(Arg.PANEL)
        b = self.builder
        panels = b.sdiv(b.sub(b.add(self.blocks, panel), ir.Constant(I64, 1)), panel)

        def one_panel(p: ir.Value, _: Values) -> Values:
            k0 = b.mul(p, panel)
            k1 = b.add(k0, panel)
            k1 = b.select(b.icmp_signed("<", k1, self.blocks), k1, self.blocks)

            def group(g: ir.Value, _: Values) -> Values:
                self._move_sums(g, row0, row1, first=b.icmp_signed("==", p, zero))
                self.loop(k0, k1, 1, [], lambda k, _: self._block(g, k, row0, row1))
                self._move_sums(g, row0, row1, first=None)
                return []

            self.loop(self.first, self.last, 1, [], group)
            return []

        self.loop(zero, panels, 1, [], one_panel)
        b.ret_void()

    def _block(self, g: ir.Value, k: ir.Value, row0: ir.Value, row1: ir.Value) -> Values:
        b, step = self.builder, self.variant.tile_rows
        whole = b.sub(row1, b.srem(b.sub(row1, row0), ir.Constant(I64, step)))
        self.prefetch(g, k)
        for part in range(self.parts):
            weights, scales = self.weights(g, k, part)
            self.loop(row0, whole, step, [], self._rows(weights, scales, k, row0, part, step))
            if step > 1:
                self.loop(whole, row1, 1, [], self._rows(weights, scales, k, row0, part, 1))
        return []

    def _rows(
        self, weights: Values, scales: ir.Value, k: ir.Value, row0: ir.Value, part: int, count: int
    ) -> Callable[[ir.Value, Values], Values]:
        def body(m: ir.Value, _: Values) -> Values:
            base = self.offset(self.scratch, self.builder.sub(m, row0), GROUP * 4)
            places = [self.offset(base, i * GROUP * 4 + part * self.lanes * 4) for i in range(count)]
            sums = [self.load(p, self.float_vector, align=4) for p in places]
            for place, value in zip(places, self.block_products(weights, scales, k, m, count, sums), strict=True):
                self.store(value, place, align=4)
            return []

        return body

    def _move_sums(self, g: ir.Value, row0: ir.Value, row1: ir.Value, *, first: ir.Value | None) -> None:
        """Fetch a group's sums from the result (zeros for the ``first`` panel), or with ``None`` put them back."""
        zeros = ir.Constant(self.float_vector, [0.0] * self.lanes)

        def row(m: ir.Value, _: Values) -> Values:
            for part in range(self.parts):
                place = self.offset(self.scratch, self.builder.sub(m, row0), GROUP * 4)
                place = self.offset(place, part * self.lanes * 4)
                result = self.out_address(m, g, part)
                if first is None:
                    self.store(self.load(place, self.float_vector, align=4), result, align=4)
                else:
                    old = self.load(result, self.float_vector, align=4)
                    self.store(self.builder.select(first, zeros, old), place, align=4)
            return []

        self.loop(row0, row1, 1, [], row)
