"""Writes the side paths of low-rank adapters as LLVM code: ``OUT += (SCALE * X @ DOWN.T) @ UP``.

The first factor is a kernel of its own, ``down``, of the form described in :mod:`.writer`; the second is added by the
product kernels to a group's sums while these are at hand, see :func:`add_sides`. Each row is worked out alone and in
one order, so that its bits do not depend on how many rows there are. Knows nothing of tensors.
"""

from __future__ import annotations

from enum import IntEnum

from llvmlite import ir

from chatglm_backend.int4.kernels.emit_blocks import Arg
from chatglm_backend.int4.kernels.layout import BLOCK, GROUP
from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.int4.kernels.writer import F16, F32, I64, KernelWriter, Values
from chatglm_backend.models.low_rank import RANK_STEP, UP_COLUMNS

ROW_BLOCK = 4
"""Rows that share each read of the factors, where there are so many."""


class SideWord(IntEnum):
    """Words of one side path in the table at ``Arg.SIDES``: it is for rows ``ROW0`` to ``ROW1``.

    ``DOWN`` is fp16 [rank, inputs], ``UP`` fp16 [groups, rank, 16], ``BETWEEN`` fp32 [rows, rank]; the low half of
    ``SCALE`` is an fp32 number. Pieces ``ITEM0`` to ``ITEM1`` of the work of ``down`` are this path's.
    """

    ROW0 = 0
    ROW1 = 1
    DOWN = 2
    UP = 3
    BETWEEN = 4
    RANK = 5
    SCALE = 6
    ITEM0 = 7
    ITEM1 = 8


def down_ranks(variant: Variant) -> int:
    """Ranks that share each read of a row in ``down``: as many as the registers have room for their sums."""
    return RANK_STEP if variant.lanes == GROUP else 1


class _Path:
    """One side path as the code sees it, with what both factors need."""

    def __init__(self, writer: KernelWriter, index: ir.Value) -> None:
        self.writer, self.vector = writer, ir.VectorType(F32, UP_COLUMNS)
        table = writer.offset(writer.arg(Arg.SIDES), index, 8 * len(SideWord))
        self.words = writer.table(table, SideWord)
        self.scale = writer.load(writer.offset(table, SideWord.SCALE * 8), F32, align=8)

    def halves(self, address: ir.Value) -> ir.Value:
        """16 fp16 numbers as fp32."""
        w = self.writer
        return w.builder.fpext(w.load(address, ir.VectorType(F16, UP_COLUMNS), align=2), self.vector)

    def between(self, row: ir.Value) -> ir.Value:
        """Where a row's numbers between the factors begin."""
        b = self.writer.builder
        skipped = b.mul(b.sub(row, self.words[SideWord.ROW0]), self.words[SideWord.RANK])
        return self.writer.offset(self.words[SideWord.BETWEEN], skipped, 4)


def _least(writer: KernelWriter, one: ir.Value, other: ir.Value, sign: str = "<") -> ir.Value:
    return writer.builder.select(writer.builder.icmp_signed(sign, one, other), one, other)


def add_sides(writer: KernelWriter, group: ir.Value, row0: ir.Value, row1: ir.Value, sums: ir.Value) -> None:
    """Add all side paths to a group's ``sums`` of rows ``row0`` to ``row1``, 16 floats a row at this address."""
    b, zero = writer.builder, ir.Constant(I64, 0)

    def path(index: ir.Value, _: Values) -> Values:
        side = _Path(writer, index)
        rank = side.words[SideWord.RANK]
        factor = writer.offset(side.words[SideWord.UP], b.mul(group, rank), GROUP * 2)

        def rows(first: ir.Value, count: int) -> Values:
            which = [b.add(first, ir.Constant(I64, i)) for i in range(count)]
            places = [writer.offset(sums, b.sub(row, row0), GROUP * 4) for row in which]
            numbers = [side.between(row) for row in which]

            def add(j: ir.Value, totals: Values) -> Values:
                weights = side.halves(writer.offset(factor, j, GROUP * 2))
                found = [writer.load(writer.offset(number, j, 4), F32, align=4) for number in numbers]
                pairs = zip(found, totals, strict=True)
                return [writer.fma(writer.splat(number, GROUP), weights, total) for number, total in pairs]

            before = [writer.load(place, side.vector, align=4) for place in places]
            for place, total in zip(places, writer.loop(zero, rank, 1, before, add), strict=True):
                writer.store(total, place, align=4)
            return []

        first = _least(writer, side.words[SideWord.ROW0], row0, ">")
        last = _least(writer, side.words[SideWord.ROW1], row1)
        whole = b.sub(last, b.srem(b.sub(last, first), ir.Constant(I64, ROW_BLOCK)))
        writer.loop(first, whole, ROW_BLOCK, [], lambda row, _: rows(row, ROW_BLOCK))
        # Where none of the rows are this path's, ``whole`` lies between ``last`` and ``first``.
        writer.loop(whole, last, 1, [], lambda row, _: rows(row, 1))
        return []

    writer.loop(zero, writer.arg(Arg.SIDE_COUNT), 1, [], path)


class Down(KernelWriter):
    """The numbers between the factors, some ranks of up to four rows at a time."""

    def emit(self) -> None:
        """Write the kernel."""
        b, ranks = self.builder, ir.Constant(I64, down_ranks(self.variant))
        block = ir.Constant(I64, ROW_BLOCK)

        def path(index: ir.Value, _: Values) -> Values:
            side = _Path(self, index)
            begin, end = side.words[SideWord.ITEM0], side.words[SideWord.ITEM1]
            groups = b.sdiv(side.words[SideWord.RANK], ranks)

            def piece(item: ir.Value, _: Values) -> Values:
                rank = b.mul(b.srem(item, groups), ranks)
                row = b.add(side.words[SideWord.ROW0], b.mul(b.sdiv(item, groups), block))
                last = _least(self, b.add(row, block), side.words[SideWord.ROW1])
                whole = b.sub(last, b.srem(b.sub(last, row), block))
                self.loop(row, whole, ROW_BLOCK, [], lambda r, _: self._rows(side, r, ROW_BLOCK, rank))
                self.loop(whole, last, 1, [], lambda r, _: self._rows(side, r, 1, rank))
                return []

            low, high = _least(self, self.first, begin, ">"), _least(self, self.last, end)
            self.loop(b.sub(low, begin), b.sub(high, begin), 1, [], piece)
            return []

        self.loop(ir.Constant(I64, 0), self.arg(Arg.SIDE_COUNT), 1, [], path)
        b.ret_void()

    def _rows(self, side: _Path, row: ir.Value, count: int, rank: ir.Value) -> Values:
        b = self.builder
        inputs = b.mul(self.arg(Arg.BLOCKS), ir.Constant(I64, BLOCK))
        ranks = [b.add(rank, ir.Constant(I64, j)) for j in range(down_ranks(self.variant))]
        rows = [b.add(row, ir.Constant(I64, i)) for i in range(count)]
        sources = [self.offset(self.arg(Arg.X), b.mul(r, inputs), 4) for r in rows]
        factors = [self.offset(side.words[SideWord.DOWN], b.mul(j, inputs), 2) for j in ranks]

        def add(i: ir.Value, sums: Values) -> Values:
            weights = [side.halves(self.offset(factor, i, 2)) for factor in factors]
            values = [self.load(self.offset(source, i, 4), side.vector, align=4) for source in sources]
            pairs = [(value, weight) for value in values for weight in weights]
            return [self.fma(*pair, total) for pair, total in zip(pairs, sums, strict=True)]

        start = [self.constant(0.0, UP_COLUMNS)] * (count * len(ranks))
        sums = iter(self.loop(ir.Constant(I64, 0), inputs, UP_COLUMNS, start, add))
        for r in rows:
            for j in ranks:
                self.store(b.fmul(self.total(next(sums)), side.scale), self.offset(side.between(r), j, 4), align=4)
        return []
