"""Writes the side path of a low-rank adapter as LLVM code: ``OUT += (SCALE * X @ DOWN.T) @ UP``.

Kernels have the form described in :mod:`.writer`; argument words are in the order of :class:`LowRankArg`. Each row is
worked out alone and in one order, so that its bits do not depend on how many rows there are. Knows nothing of tensors.
"""

from __future__ import annotations

from enum import IntEnum

from llvmlite import ir

from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.int4.kernels.writer import F16, F32, I64, KernelWriter, Values
from chatglm_backend.models.low_rank import RANK_STEP

COLUMNS = 16
"""Output columns that one piece of work of ``up_*`` writes, and that lie together in ``UP``.

Also the inputs that ``down_*`` takes at once; their number is a multiple of it.
"""
ROW_BLOCK = 4
"""Rows that share each read of the factors in the kernels for many rows."""


class LowRankArg(IntEnum):
    """``DOWN`` is fp16 [rank, inputs], ``UP`` fp16 [columns / 16, rank, 16], ``BETWEEN`` fp32 [rows, rank].

    ``SCALE`` is the address of one fp32 number; the rows at hand begin with ``ROW0`` and are ``BLOCKS`` times
    one or four.
    """

    X = 0
    X_ROW = 1
    DOWN = 2
    BETWEEN = 3
    UP = 4
    OUT = 5
    OUT_ROW = 6
    INPUTS = 7
    RANK = 8
    ROW0 = 9
    BLOCKS = 10
    SCALE = 11


def down_ranks(variant: Variant) -> int:
    """Ranks that share each read of a row in ``down_*``: as many as the registers have room for their sums."""
    return RANK_STEP if variant.lanes == COLUMNS else 1


def build_low_rank(variant: Variant, triple: str) -> ir.Module:
    """``down_1`` and ``down_4`` over blocks of rows x ranks, ranks fastest; ``up_1`` and ``up_4`` over columns."""
    module = ir.Module(name="low_rank")
    module.triple = triple
    for rows in (1, ROW_BLOCK):
        _Down(module, variant, f"down_{rows}").emit(rows)
        _Up(module, variant, f"up_{rows}").emit(rows)
    return module


class _LowRank(KernelWriter):
    """What both factors share: halves widened, rows of a block, their numbers between the factors."""

    vector = ir.VectorType(F32, COLUMNS)

    def halves(self, address: ir.Value) -> ir.Value:
        """16 fp16 numbers as fp32."""
        return self.builder.fpext(self.load(address, ir.VectorType(F16, COLUMNS), align=2), self.vector)

    def rows_of(self, block: ir.Value, count: int) -> Values:
        """The rows of a block."""
        b = self.builder
        first = b.add(self.arg(LowRankArg.ROW0), b.mul(block, ir.Constant(I64, count)))
        return [b.add(first, ir.Constant(I64, i)) for i in range(count)]

    def between(self, row: ir.Value, rank: ir.Value) -> ir.Value:
        """Where a row's numbers between the factors begin."""
        return self.offset(self.arg(LowRankArg.BETWEEN), self.builder.mul(row, rank), 4)


class _Down(_LowRank):
    """The numbers between the factors, some ranks of ``count`` rows at a time."""

    def emit(self, count: int) -> None:
        b, rank, inputs = self.builder, self.arg(LowRankArg.RANK), self.arg(LowRankArg.INPUTS)
        x, x_row, down = (self.arg(which) for which in (LowRankArg.X, LowRankArg.X_ROW, LowRankArg.DOWN))
        scale, ranks = self.load(self.arg(LowRankArg.SCALE), F32, align=4), down_ranks(self.variant)
        groups = b.sdiv(rank, ir.Constant(I64, ranks))

        def piece(item: ir.Value, _: Values) -> Values:
            first = b.mul(b.srem(item, groups), ir.Constant(I64, ranks))
            which = [b.add(first, ir.Constant(I64, j)) for j in range(ranks)]
            rows = self.rows_of(b.sdiv(item, groups), count)
            sources = [b.add(x, b.mul(row, x_row)) for row in rows]
            factors = [self.offset(down, b.mul(j, inputs), 2) for j in which]

            def add(i: ir.Value, sums: Values) -> Values:
                weights = [self.halves(self.offset(factor, i, 2)) for factor in factors]
                values = [self.load(self.offset(source, i, 4), self.vector, align=4) for source in sources]
                pairs = [(value, weight) for value in values for weight in weights]
                return [self.fma(*pair, total) for pair, total in zip(pairs, sums, strict=True)]

            start = [self.constant(0.0, COLUMNS)] * (count * ranks)
            sums = iter(self.loop(ir.Constant(I64, 0), inputs, COLUMNS, start, add))
            for row in rows:
                for j in which:
                    place = self.offset(self.between(row, rank), j, 4)
                    self.store(b.fmul(self.total(next(sums)), scale), place, align=4)
            return []

        self.loop(self.first, self.last, 1, [], piece)
        b.ret_void()


class _Up(_LowRank):
    """16 columns at a time, ``count`` rows from end to end before the next, as they lie in memory."""

    def emit(self, count: int) -> None:
        b, rank, zero = self.builder, self.arg(LowRankArg.RANK), ir.Constant(I64, 0)
        out, out_row, up = (self.arg(which) for which in (LowRankArg.OUT, LowRankArg.OUT_ROW, LowRankArg.UP))

        def block(k: ir.Value, _: Values) -> Values:
            rows = self.rows_of(k, count)
            starts = [b.add(out, b.mul(row, out_row)) for row in rows]
            numbers = [self.between(row, rank) for row in rows]

            def columns(item: ir.Value, _: Values) -> Values:
                factor = self.offset(up, b.mul(item, rank), COLUMNS * 2)
                places = [self.offset(start, item, COLUMNS * 4) for start in starts]

                def add(j: ir.Value, sums: Values) -> Values:
                    weights = self.halves(self.offset(factor, j, COLUMNS * 2))
                    found = [self.load(self.offset(number, j, 4), F32, align=4) for number in numbers]
                    pairs = zip(found, sums, strict=True)
                    return [self.fma(self.splat(number, COLUMNS), weights, total) for number, total in pairs]

                before = [self.load(place, self.vector, align=4) for place in places]
                for place, total in zip(places, self.loop(zero, rank, 1, before, add), strict=True):
                    self.store(total, place, align=4)
                return []

            self.loop(self.first, self.last, 1, [], columns)
            return []

        self.loop(zero, self.arg(LowRankArg.BLOCKS), 1, [], block)
        b.ret_void()
