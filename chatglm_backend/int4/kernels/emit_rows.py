"""Writes the operations on single rows as LLVM code: rotary positions, LayerNorm, RMSNorm, residuals, cache writes.

Kernels have the form described in :mod:`.writer`; argument words are in the order of :class:`RotaryArg`,
:class:`NormArg`, :class:`AddArg` or :class:`StoreArg`, the work range is rows, strides are in bytes. Each row is
worked out alone and in one order, so that its bits do not depend on how many rows there are. Knows nothing of tensors.
"""

from __future__ import annotations

from enum import IntEnum

from llvmlite import ir

from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.int4.kernels.writer import F16, F32, I8, I32, I64, KernelWriter, Values
from chatglm_backend.models.int8_rows import SCALE_BYTES

ROW_LANES = 16


class RotaryArg(IntEnum):
    """``POSITIONS`` is the address of int64 table rows; ``COUNT`` the number of frequencies, a multiple of 16."""

    X = 0
    X_ROW = 1
    X_HEAD = 2
    X_PART = 3
    HEADS = 4
    PARTS = 5
    COS = 6
    SIN = 7
    TABLE_ROW = 8
    POSITIONS = 9
    COUNT = 10


class NormArg(IntEnum):
    """``UNITS`` is the row length, a multiple of 16; ``FACTORS`` the address of 1 / ``UNITS`` and epsilon, fp32."""

    X = 0
    X_ROW = 1
    OUT = 2
    OUT_ROW = 3
    UNITS = 4
    WEIGHT = 5
    BIAS = 6
    FACTORS = 7


class AddArg(IntEnum):
    """``FACTOR`` is the address of one fp32 number; ``UNITS`` a multiple of 16."""

    BASE = 0
    BASE_ROW = 1
    UPDATE = 2
    UPDATE_ROW = 3
    OUT = 4
    OUT_ROW = 5
    UNITS = 6
    FACTOR = 7


class CacheWord(IntEnum):
    """Words about a sequence's keys and values of one layer: where they begin, and the bytes from head to head."""

    KEYS = 0
    KEYS_HEAD = 1
    VALUES = 2
    VALUES_HEAD = 3


class StoreArg(IntEnum):
    """Row i of ``K`` and ``V`` becomes token ``TOKENS[i]`` of its sequence, in the cache's format.

    ``CACHES`` is the address of the first row's :class:`CacheWord`, ``CACHES_ROW`` bytes before the next row's;
    ``TOKENS`` that of int64 numbers. Tokens follow one another, ``UNITS`` (a multiple of 16) features each.
    """

    K = 0
    K_ROW = 1
    K_HEAD = 2
    V = 3
    V_ROW = 4
    V_HEAD = 5
    CACHES = 6
    CACHES_ROW = 7
    HEADS = 8
    UNITS = 9
    TOKENS = 10


def build_rows(variant: Variant, triple: str) -> ir.Module:
    """``rotate_halves``, ``rotate_pairs``, ``layer_norm``, ``rms_norm``, ``add_scaled`` and ``store``."""
    module = ir.Module(name="rows")
    module.triple = triple
    _Rotary(module, variant, "rotate_halves").emit(pairs=False)
    _Rotary(module, variant, "rotate_pairs").emit(pairs=True)
    _Norm(module, variant, "layer_norm").emit(centred=True)
    _Norm(module, variant, "rms_norm").emit(centred=False)
    _AddScaled(module, variant, "add_scaled").emit()
    Store(module, variant, "store").emit()
    return module


class _Rotary(KernelWriter):
    """In place; products and sums are rounded one by one, as eager torch does."""

    def emit(self, *, pairs: bool) -> None:
        b, zero = self.builder, ir.Constant(I64, 0)
        words = {which: self.arg(which) for which in RotaryArg}

        def row(r: ir.Value, _: Values) -> Values:
            position = self.load(self.offset(words[RotaryArg.POSITIONS], r, 8), I64, align=8)
            skipped = b.mul(position, words[RotaryArg.TABLE_ROW])
            tables = [b.add(words[which], skipped) for which in (RotaryArg.COS, RotaryArg.SIN)]
            start = b.add(words[RotaryArg.X], b.mul(r, words[RotaryArg.X_ROW]))

            def head(h: ir.Value, _: Values) -> Values:
                first = b.add(start, b.mul(h, words[RotaryArg.X_HEAD]))

                def part(p: ir.Value, _: Values) -> Values:
                    x = b.add(first, b.mul(p, words[RotaryArg.X_PART]))
                    self.loop(zero, words[RotaryArg.COUNT], ROW_LANES, [], lambda t, _: turn(x, t))
                    return []

                self.loop(zero, words[RotaryArg.PARTS], 1, [], part)
                return []

            def turn(x: ir.Value, t: ir.Value) -> Values:
                vector = ir.VectorType(F32, ROW_LANES)
                cos, sin = (self.load(self.offset(table, t, 4), vector, align=4) for table in tables)
                places = self._places(x, t, words[RotaryArg.COUNT], pairs=pairs)
                left, right = (self.load(place, vector, align=4) for place in places)
                if pairs:
                    left, right = self._blend(left, right, 0, 2), self._blend(left, right, 1, 2)
                turned = b.fsub(b.fmul(left, cos), b.fmul(right, sin))
                other = b.fadd(b.fmul(right, cos), b.fmul(left, sin))
                if pairs:
                    turned, other = self._zip(turned, other, 0), self._zip(turned, other, ROW_LANES // 2)
                for place, value in zip(places, (turned, other), strict=True):
                    self.store(value, place, align=4)
                return []

            self.loop(zero, words[RotaryArg.HEADS], 1, [], head)
            return []

        self.loop(self.first, self.last, 1, [], row)
        b.ret_void()

    def _places(self, x: ir.Value, t: ir.Value, count: ir.Value, *, pairs: bool) -> Values:
        """Where the two vectors lie whose features turn together."""
        if pairs:
            place = self.offset(x, t, 8)
            return [place, self.offset(place, ROW_LANES * 4)]
        return [self.offset(x, t, 4), self.offset(x, self.builder.add(t, count), 4)]

    def _blend(self, left: ir.Value, right: ir.Value, first: int, step: int) -> ir.Value:
        """Every ``step``-th lane of both vectors in a row, from ``first`` on."""
        return self._shuffle(left, right, [first + step * i for i in range(ROW_LANES)])

    def _zip(self, left: ir.Value, right: ir.Value, first: int) -> ir.Value:
        """Lanes of ``left`` and ``right`` in turn, from ``first`` on."""
        return self._shuffle(left, right, [first + i // 2 + i % 2 * ROW_LANES for i in range(ROW_LANES)])

    def _shuffle(self, left: ir.Value, right: ir.Value, order: list[int]) -> ir.Value:
        return self.builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(I32, ROW_LANES), order))


class _Norm(KernelWriter):
    """Sums of a row, then the scaled row; ``centred`` subtracts the mean and adds a bias."""

    def emit(self, *, centred: bool) -> None:
        b, zero, vector = self.builder, ir.Constant(I64, 0), ir.VectorType(F32, ROW_LANES)
        x, x_row, out, out_row, units, weight, bias, factors = (self.arg(which) for which in NormArg)
        share = self.load(factors, F32, align=4)
        epsilon = self.load(self.offset(factors, 4), F32, align=4)
        nothing = self.constant(0.0, ROW_LANES)

        def row(r: ir.Value, _: Values) -> Values:
            source, result = b.add(x, b.mul(r, x_row)), b.add(out, b.mul(r, out_row))
            middle = nothing

            def value(t: ir.Value) -> ir.Value:
                loaded = self.load(self.offset(source, t, 4), vector, align=4)
                return b.fsub(loaded, middle) if centred else loaded

            def mean(*, of_squares: bool) -> ir.Value:
                def add(t: ir.Value, carried: Values) -> Values:
                    here = value(t)
                    return [self.fma(here, here, carried[0]) if of_squares else b.fadd(here, carried[0])]

                (total,) = self.loop(zero, units, ROW_LANES, [nothing], add)
                return b.fmul(self.total(total), share)

            if centred:
                middle = self.splat(mean(of_squares=False), ROW_LANES)
            deviation = self.call("llvm.sqrt.f32", F32, [b.fadd(mean(of_squares=True), epsilon)])
            scale = self.splat(b.fdiv(ir.Constant(F32, 1.0), deviation), ROW_LANES)

            def write(t: ir.Value, _: Values) -> Values:
                scaled = b.fmul(b.fmul(value(t), scale), self.load(self.offset(weight, t, 4), vector, align=4))
                if centred:
                    scaled = b.fadd(scaled, self.load(self.offset(bias, t, 4), vector, align=4))
                self.store(scaled, self.offset(result, t, 4), align=4)
                return []

            self.loop(zero, units, ROW_LANES, [], write)
            return []

        self.loop(self.first, self.last, 1, [], row)
        b.ret_void()


class _AddScaled(KernelWriter):
    """``FACTOR * BASE + UPDATE``, rounded once."""

    def emit(self) -> None:
        b, vector = self.builder, ir.VectorType(F32, ROW_LANES)
        base, base_row, update, update_row, out, out_row, units, factor = (self.arg(which) for which in AddArg)
        scale = self.splat(self.load(factor, F32, align=4), ROW_LANES)

        def row(r: ir.Value, _: Values) -> Values:
            places = [b.add(x, b.mul(r, stride)) for x, stride in ((base, base_row), (update, update_row))]
            result = b.add(out, b.mul(r, out_row))

            def write(t: ir.Value, _: Values) -> Values:
                scaled, added = (self.load(self.offset(place, t, 4), vector, align=4) for place in places)
                self.store(self.fma(scaled, scale, added), self.offset(result, t, 4), align=4)
                return []

            self.loop(ir.Constant(I64, 0), units, ROW_LANES, [], write)
            return []

        self.loop(self.first, self.last, 1, [], row)
        b.ret_void()


class Store(KernelWriter):
    """Keys and values of new tokens into a cache, rounded to fp16."""

    def emit(self) -> None:
        """Write the whole function."""
        b = self.builder
        words = {which: self.arg(which) for which in StoreArg}
        kinds = (
            (StoreArg.K, StoreArg.K_ROW, StoreArg.K_HEAD, CacheWord.KEYS, CacheWord.KEYS_HEAD),
            (StoreArg.V, StoreArg.V_ROW, StoreArg.V_HEAD, CacheWord.VALUES, CacheWord.VALUES_HEAD),
        )

        def row(r: ir.Value, _: Values) -> Values:
            token = self.token_bytes(self.load(self.offset(words[StoreArg.TOKENS], r, 8), I64, align=8))
            caches = self.table(b.add(words[StoreArg.CACHES], b.mul(r, words[StoreArg.CACHES_ROW])), CacheWord)
            for x, x_row, x_head, cache, cache_head in kinds:
                source = b.add(words[x], b.mul(r, words[x_row]))
                self._heads(source, words[x_head], b.add(caches[cache], token), caches[cache_head])
            return []

        self.loop(self.first, self.last, 1, [], row)
        b.ret_void()

    def _heads(self, source: ir.Value, source_step: ir.Value, place: ir.Value, place_step: ir.Value) -> None:
        """All heads of one token."""
        b, zero = self.builder, ir.Constant(I64, 0)

        def head(h: ir.Value, _: Values) -> Values:
            mine, theirs = b.add(source, b.mul(h, source_step)), b.add(place, b.mul(h, place_step))
            self.write(mine, theirs)
            return []

        self.loop(zero, self.arg(StoreArg.HEADS), 1, [], head)

    def token_bytes(self, tokens: ir.Value) -> ir.Value:
        """What so many tokens of one head take."""
        return self.offset(ir.Constant(I64, 0), self.builder.mul(tokens, self.arg(StoreArg.UNITS)), 2)

    def write(self, source: ir.Value, place: ir.Value) -> None:
        """One head's features."""
        units = self.arg(StoreArg.UNITS)
        self.loop(ir.Constant(I64, 0), units, ROW_LANES, [], lambda t, _: self._halve(source, place, t))

    def _halve(self, source: ir.Value, place: ir.Value, t: ir.Value) -> Values:
        values = self.load(self.offset(source, t, 4), ir.VectorType(F32, ROW_LANES), align=4)
        self.store(self.builder.fptrunc(values, ir.VectorType(F16, ROW_LANES)), self.offset(place, t, 2), align=2)
        return []


class StoreBytes(Store):
    """The same as int8 rows of ``dim`` features; see :mod:`chatglm_backend.models.int8_rows`."""

    def __init__(self, module: ir.Module, variant: Variant, name: str, dim: int) -> None:
        super().__init__(module, variant, name)
        self.dim = dim

    def token_bytes(self, tokens: ir.Value) -> ir.Value:
        """See :class:`Store`."""
        return self.offset(ir.Constant(I64, 0), tokens, self.dim + SCALE_BYTES)

    def write(self, source: ir.Value, place: ir.Value) -> None:
        """See :class:`Store`."""
        wide, scale = self.to_whole(self.load(source, ir.VectorType(F32, self.dim), align=4), 127.0)
        self.store(self.builder.trunc(wide, ir.VectorType(I8, self.dim)), place)
        self.store(scale, self.offset(place, self.dim))
