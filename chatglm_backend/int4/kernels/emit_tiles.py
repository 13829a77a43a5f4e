"""Writes the product of many rows for AMX: up to 16 rows times a block's weights in one instruction.

A block's weights, spread to signed bytes, lie as AMX wants its second factor: 16 lines of four inputs for each of 16
outputs. Sums of whole numbers do not depend on their order, and all else is done as in :mod:`.emit`, so that the bits
are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from llvmlite import ir

from chatglm_backend.int4.kernels.emit_blocks import Arg, BlockProducts
from chatglm_backend.int4.kernels.emit_low_rank import add_sides
from chatglm_backend.int4.kernels.layout import BLOCK, GROUP
from chatglm_backend.int4.kernels.writer import F32, I8, I16, I64, Values

_LINES = 16
"""Most rows of a tile, of 64 bytes each."""
_TILE_BYTES = _LINES * 64
_PAIR = 2
"""Blocks that are worked on together, each in tiles of its own."""
_PAIR_BYTES = _PAIR * _TILE_BYTES
_SUMS, _ROWS, _WEIGHTS = (range(first, first + _PAIR) for first in (0, 2, 4))
"""The tiles: whole-number sums, activations, weights."""
_LOW, _HIGH = (sum((1 << min(bit, 3) + shift) << 8 * (7 - bit) for bit in range(8)) for shift in (0, 4))
"""Bits 0, 1, 2 and five times 3 of the low or the high nibble, as the rows of a matrix over bits."""
_UNUSED_BITS = 0xF8
"""Those five are turned over: a stored nibble is 8 too large, so without its highest bit the number is negative."""
_CONFIG_WIDTHS, _CONFIG_HEIGHTS = 16, 48


class AmxTile(BlockProducts):
    """Rows ``ROW0``..``ROW1``, 16 at a time; where the last are fewer, a tile takes some before them along.

    Tiles and vectors reach each other only through memory, and what was just written there has to be waited for. So
    weights are spread for the pair of blocks after the one at hand, and sums are fetched one step of tiles later.
    """

    def emit(self) -> None:
        """Write the kernel."""
        b, zero, pair = self.builder, ir.Constant(I64, 0), ir.Constant(I64, _PAIR)
        self.config, self.bytes, self.found = (self._room(size) for size in (64, 2 * _PAIR_BYTES, 2 * _PAIR_BYTES))
        self.row0, self.row1 = self.arg(Arg.ROW0), self.arg(Arg.ROW1)
        self.height = self._least(b.sub(self.row1, self.row0), ir.Constant(I64, _LINES))
        self._configure(b.trunc(self.height, I8))
        nothing = self.constant(0.0, GROUP)
        pairs = b.sub(self.blocks, b.srem(self.blocks, pair))

        def group(g: ir.Value, _: Values) -> Values:
            def put(place: ir.Value, row: ir.Value) -> None:
                sums = self.load(place, self.float_vector, align=4)
                self.store(self.biased(sums, g, 0), self.out_address(row, g, 0), align=4)

            def blocks(k: ir.Value, before: Values) -> Values:
                place = before[0]
                other = b.sub(ir.Constant(I64, _PAIR_BYTES), place)
                # Behind the last pair it is done once more, for nobody.
                self._spread(g, self._least(b.add(k, pair), b.sub(pairs, pair)), _PAIR, other)
                return [other, *self._tiles(g, k, _PAIR, place, before[1:])]

            def last(k: ir.Value, _: Values) -> Values:
                self._spread(g, k, 1, zero)
                self._add(g, 1, self._tiles(g, k, 1, zero, [zero, zero, zero, self.row0, self.row0]))
                return []

            self._each_row(lambda place, _: self.store(nothing, place, align=4))
            self.loop(
                zero, self._least(pairs, ir.Constant(I64, 1)), 1, [], lambda k, _: self._spread(g, k, _PAIR, zero)
            )
            before = self.loop(zero, pairs, _PAIR, [zero, zero, zero, zero, self.row0, self.row0], blocks)
            self._add(g, _PAIR, before[1:])
            self.loop(pairs, self.blocks, 1, [], last)
            add_sides(self, g, self.row0, self.row1, self.scratch)
            self._each_row(put)
            return []

        self.loop(self.first, self.last, 1, [], group)
        self._tile("tilerelease")
        b.ret_void()

    def _room(self, size: int) -> ir.Value:
        """The address of so many bytes of the stack."""
        room = self.builder.alloca(ir.ArrayType(I8, size))
        room.align = 64
        return self.builder.ptrtoint(room, I64)

    def _configure(self, height: ir.Value) -> None:
        """Tiles of 64 bytes a line: ``height`` lines of sums and activations, 16 of weights."""
        self.store(ir.Constant(ir.VectorType(I8, 64), [1] + [0] * 63), self.config)
        for tile in chain(_SUMS, _ROWS, _WEIGHTS):
            lines = ir.Constant(I8, _LINES) if tile in _WEIGHTS else height
            self.store(ir.Constant(I16, 64), self.offset(self.config, _CONFIG_WIDTHS + 2 * tile))
            self.store(lines, self.offset(self.config, _CONFIG_HEIGHTS + tile))
        self._tile("ldtilecfg", self._pointer(self.config))

    def _spread(self, g: ir.Value, k: ir.Value, count: int, place: ir.Value) -> Values:
        """The weights of ``count`` blocks from ``k`` on as bytes, ``place`` bytes behind the first room for them."""
        for i in range(count):
            block = self.builder.add(k, ir.Constant(I64, i))
            self.prefetch(self.variant.prefetch, g, block)
            start = self.offset(self.builder.add(self.bytes, place), i * _TILE_BYTES)
            for line, vector in enumerate(self._nibbles(g, block)):
                self.store(vector, self.offset(start, line * 64), align=64)
        return []

    def _nibbles(self, g: ir.Value, k: ir.Value) -> Values:
        """Block ``k``'s 16 vectors, in the order of the activations, as signed bytes."""
        b, name = self.builder, "llvm.x86.vgf2p8affineqb.512"
        words = ir.VectorType(I64, BLOCK // 8)
        matrices = [b.bitcast(ir.Constant(words, [m] * (BLOCK // 8)), self.byte_vector) for m in (_LOW, _HIGH)]
        place = self.offset(self.chunks, b.add(b.mul(g, self.blocks), k), BLOCK * GROUP // 2)
        both = [self.load(self.offset(place, line * 64), self.byte_vector) for line in range(_LINES // 2)]
        return [
            self.call(name, self.byte_vector, [x, m, ir.Constant(I8, _UNUSED_BITS)]) for m in matrices for x in both
        ]

    def _tiles(self, g: ir.Value, k: ir.Value, count: int, place: ir.Value, before: Values) -> Values:
        """Whole-number sums of these blocks for all rows. ``before``: those that wait to be added, see :meth:`_add`."""
        b = self.builder
        for i in range(count):
            self._load(_WEIGHTS[i], self.offset(b.add(self.bytes, place), i * _TILE_BYTES))

        def rows(m: ir.Value, before: Values) -> Values:
            first = self._least(m, b.sub(self.row1, self.height))
            found = b.sub(ir.Constant(I64, _PAIR_BYTES), before[0])
            for i in range(count):
                source = b.add(b.mul(b.add(k, ir.Constant(I64, i)), self.rows), first)
                self._tile("tilezero", ir.Constant(I8, _SUMS[i]))
                self._load(_ROWS[i], self.offset(self.xq, source, BLOCK))
                self._tile("tdpbssd", *(ir.Constant(I8, tiles[i]) for tiles in (_SUMS, _ROWS, _WEIGHTS)))
            for i in range(count):
                to = self._pointer(self.offset(b.add(self.found, found), i * _TILE_BYTES))
                self._tile("tilestored64", ir.Constant(I8, _SUMS[i]), to, ir.Constant(I64, 64))
            self._add(g, count, before)
            return [found, first, k, m, self._least(b.add(m, ir.Constant(I64, _LINES)), self.row1)]

        return self.loop(self.row0, self.row1, _LINES, before, rows)

    def _add(self, g: ir.Value, count: int, waiting: Values) -> None:
        """What the tiles found, to the rows' sums."""
        b = self.builder
        found, tile_row, start, first, last = waiting
        ks = [b.add(start, ir.Constant(I64, i)) for i in range(count)]
        scales = [self.block_scales(g, k) for k in ks]

        def row(m: ir.Value, _: Values) -> Values:
            place = self.offset(self.scratch, b.sub(m, self.row0), GROUP * 4)
            sums = self.load(place, self.float_vector, align=4)
            line = self.offset(b.add(self.found, found), b.sub(m, tile_row), 64)
            for i, (k, scale) in enumerate(zip(ks, scales, strict=True)):
                at = b.add(b.mul(k, self.rows), m)
                factor = self.splat(self.load(self.offset(self.xs, at, 4), F32, align=4), GROUP)
                whole = self.load(self.offset(line, i * _TILE_BYTES), self.int_vector)
                sums = self.fma(b.sitofp(whole, self.float_vector), b.fmul(scale, factor), sums)
            self.store(sums, place, align=4)
            return []

        self.loop(first, last, 1, [], row)

    def _each_row(self, do: Callable[[ir.Value, ir.Value], None]) -> None:
        """``do`` for the place where each row's sums wait, and the row."""

        def row(m: ir.Value, _: Values) -> Values:
            do(self.offset(self.scratch, self.builder.sub(m, self.row0), GROUP * 4), m)
            return []

        self.loop(self.row0, self.row1, 1, [], row)

    def _least(self, one: ir.Value, other: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_signed("<", one, other), one, other)

    def _load(self, tile: int, address: ir.Value) -> None:
        self._tile("tileloadd64", ir.Constant(I8, tile), self._pointer(address), ir.Constant(I64, 64))

    def _tile(self, name: str, *args: ir.Value) -> None:
        self.call(f"llvm.x86.{name}", ir.VoidType(), args)

    def _pointer(self, address: ir.Value) -> ir.Value:
        return self.builder.inttoptr(address, I8.as_pointer())
