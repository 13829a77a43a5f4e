"""Writes the kernels as LLVM code: quantising activations, products of few rows, products of many, side paths.

Every kernel is ``void (i64 args, i64 first, i64 last, i64 scratch)``: ``args`` is the address of
int64 words in the order of :class:`Arg`, ``first``/``last`` a range of work (64-blocks for
the quantisation, groups of 16 output rows for the products), ``scratch`` floats of the caller's.

Activations are int8 in [blocks, rows, 64], their scales fp32 and their offsets int32 in
[blocks, rows]; an offset is -8 x the block's sum and undoes the +8 of the stored nibbles.
Knows nothing of Python arrays, threads or files.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from chatglm_backend.int4.kernels.emit_blocks import Arg, BlockProducts
from chatglm_backend.int4.kernels.emit_low_rank import Down, add_sides
from chatglm_backend.int4.kernels.emit_tiles import AmxTile
from chatglm_backend.int4.kernels.layout import BLOCK, GROUP
from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.int4.kernels.writer import F32, I8, I32, I64, KernelWriter, Values

FEW_ROWS = (1, 2, 3, 4)
"""Row counts with a kernel of their own, which keeps all sums in registers."""

_STREAMING_ROWS = 2
"""Up to so many rows a product waits for memory only."""


def build_module(variant: Variant, triple: str) -> ir.Module:
    """All kernels of one variant, as a module named after it."""
    module = ir.Module(name=f"int4_{variant.name}")
    module.triple = triple
    _Quantize(module, variant, "quantize").emit()
    for rows in FEW_ROWS:
        _FewRows(module, variant, f"rows_{rows}").emit(rows)
    (AmxTile if variant.uses_amx else _Tile)(module, variant, "tile").emit()
    Down(module, variant, "down").emit()
    return module


class _Quantize(KernelWriter):
    """fp32 [rows, blocks * 64] -> int8, scales, offsets, for a range of blocks."""

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
        wide, scale = self.to_whole(self.load(source, ir.VectorType(F32, BLOCK), align=4), 127.0)
        total = self.call(f"llvm.vector.reduce.add.v{BLOCK}i32", I32, [wide])
        return b.trunc(wide, ir.VectorType(I8, BLOCK)), scale, b.mul(total, ir.Constant(I32, -8))


class _FewRows(BlockProducts):
    """A fixed, small number of rows from ``ROW0`` on: one pass over the weights, sums in registers."""

    def emit(self, count: int) -> None:
        first_row = self.arg(Arg.ROW0)
        prefetch = self.variant.prefetch_streaming if count <= _STREAMING_ROWS else self.variant.prefetch
        zeros = [ir.Constant(self.float_vector, [0.0] * self.lanes)] * (count * self.parts)
        zero = ir.Constant(I64, 0)
        any_sides = self.builder.zext(self.builder.icmp_signed(">", self.arg(Arg.SIDE_COUNT), zero), I64)

        def group(g: ir.Value, _: Values) -> Values:
            def block(k: ir.Value, sums: Values) -> Values:
                after: Values = []
                self.prefetch(prefetch, g, k)
                for part in range(self.parts):
                    weights, scales = self.weights(g, k, part)
                    mine = sums[part * count : (part + 1) * count]
                    after += self.block_products(weights, scales, k, first_row, count, mine)
                return after

            sums = self.loop(zero, self.blocks, 1, list(zeros), block)
            sums = self.loop(zero, any_sides, 1, sums, lambda _, sums: self._sided(g, first_row, count, sums))
            for part in range(self.parts):
                for m in range(count):
                    row = self.builder.add(first_row, ir.Constant(I64, m))
                    self.store(self.biased(sums[part * count + m], g, part), self.out_address(row, g, part), align=4)
            return []

        self.loop(self.first, self.last, 1, [], group)
        self.builder.ret_void()

    def _sided(self, g: ir.Value, first_row: ir.Value, count: int, sums: Values) -> Values:
        """The sums with the side paths, by way of ``scratch``."""
        places = [
            self.offset(self.scratch, m * GROUP * 4 + part * self.lanes * 4)
            for part in range(self.parts)
            for m in range(count)
        ]
        for place, value in zip(places, sums, strict=True):
            self.store(value, place, align=4)
        add_sides(self, g, first_row, self.builder.add(first_row, ir.Constant(I64, count)), self.scratch)
        return [self.load(place, self.float_vector, align=4) for place in places]


class _Tile(BlockProducts):
    """Rows ``ROW0``..``ROW1``: a block's weights stay in registers while all the rows pass.

    The sums of a group wait in ``scratch`` (16 floats a row). Weights are read in the order in which they lie, which
    memory likes best; cutting the blocks into panels, for activations that stay in the L2 cache, cost up to a sixth.
    """

    def emit(self) -> None:
        zero = ir.Constant(I64, 0)
        nothing = ir.Constant(self.float_vector, [0.0] * self.lanes)
        row0, row1 = self.arg(Arg.ROW0), self.arg(Arg.ROW1)

        def group(g: ir.Value, _: Values) -> Values:
            def put(place: ir.Value, row: ir.Value, part: int) -> None:
                sums = self.load(place, self.float_vector, align=4)
                self.store(self.biased(sums, g, part), self.out_address(row, g, part), align=4)

            self._each_sum(row0, row1, lambda place, _row, _part: self.store(nothing, place, align=4))
            self.loop(zero, self.blocks, 1, [], lambda k, _: self._block(g, k, row0, row1))
            add_sides(self, g, row0, row1, self.scratch)
            self._each_sum(row0, row1, put)
            return []

        self.loop(self.first, self.last, 1, [], group)
        self.builder.ret_void()

    def _block(self, g: ir.Value, k: ir.Value, row0: ir.Value, row1: ir.Value) -> Values:
        b, step = self.builder, self.variant.tile_rows
        whole = b.sub(row1, b.srem(b.sub(row1, row0), ir.Constant(I64, step)))
        self.prefetch(self.variant.prefetch, g, k)
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

    def _each_sum(self, row0: ir.Value, row1: ir.Value, do: Callable[[ir.Value, ir.Value, int], None]) -> None:
        """``do`` for the place where each row's sums wait, the row, and each part of a group."""

        def row(m: ir.Value, _: Values) -> Values:
            place = self.offset(self.scratch, self.builder.sub(m, row0), GROUP * 4)
            for part in range(self.parts):
                do(self.offset(place, part * self.lanes * 4), m, part)
            return []

        self.loop(row0, row1, 1, [], row)
