"""Attention over fp16 keys and values, and over bytes with scales: how each is read and multiplied.

Knows nothing of tensors; see :mod:`.emit_attention` for the order of the work.
"""

from __future__ import annotations

from llvmlite import ir

from chatglm_backend.int4.kernels.emit_attention import BLOCK_TOKENS, LANES, Attention, AttentionArg, query_counts
from chatglm_backend.int4.kernels.emit_rows import StoreBytes
from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.int4.kernels.writer import F16, F32, I8, I16, I32, I64, Values
from chatglm_backend.models.int8_rows import SCALE_BYTES

_LARGEST_WORD = 32767.0
_PARTS_WIDE = 4
_TOKENS_AT_ONCE = 8
_VPDPWSSD = "llvm.x86.avx512.vpdpwssd.512"


def build_attention(variant: Variant, triple: str, dim: int, *, int8: bool) -> ir.Module:
    """``attend_N`` for N queries, for each of :func:`query_counts`; in 8 bits also ``store``."""
    module = ir.Module(name=f"attention_{dim}")
    module.triple = triple
    kind = _ByteAttention if int8 else _HalfAttention
    for count in query_counts(variant):
        kind(module, variant, f"attend_{count}", dim, count).emit()
    if int8:
        StoreBytes(module, variant, "store", dim).emit()
    return module


class _HalfAttention(Attention):
    """fp16 keys and values, all arithmetic in fp32."""

    def __init__(self, module: ir.Module, variant: Variant, name: str, dim: int, count: int) -> None:
        super().__init__(module, variant, name, dim, count)
        self.token_bytes = 2 * dim

    def take_queries(self, addresses: Values) -> None:
        factor = self.splat(self.load(self.a[AttentionArg.SCALE], F32, align=4), LANES)
        for i, address in enumerate(addresses):
            for part in range(self.parts):
                query = self.load(self.offset(address, part * LANES * 4), self.vector, align=4)
                self.store(self.builder.fmul(query, factor), self._query(i, part), align=4)

    def take_block(self, keys: ir.Value, values: ir.Value, start: ir.Value, end: ir.Value) -> None:
        pass

    def dots(self, keys: Values, token: ir.Value) -> ir.Value:  # noqa: ARG002
        sums = [self.constant(0.0, LANES)] * (len(keys) * self.count)
        for part in range(self.parts):
            features = [self._features(key, part) for key in keys]
            for i in range(self.count):
                query = self.load(self._query(i, part), self.vector, align=4)
                for t, feature in enumerate(features):
                    lane = t * self.count + i
                    sums[lane] = self.fma(query, feature, sums[lane])
        return self.lanes_of(self.totals(sums), 0, len(sums))

    def weigh(self) -> ir.Value | None:
        return None

    def mix(self, values: ir.Value, start: ir.Value, end: ir.Value, parts: range) -> Values:
        def token(t: ir.Value, carried: Values) -> Values:
            value = self.offset(values, t, self.token_bytes)
            place = self.offset(self.place["scores"], self.builder.sub(t, start), self.count * 4)
            weights = [self.splat(self.load(self.offset(place, i * 4), F32, align=4), LANES) for i in range(self.count)]
            features = [feature for part in parts for feature in [self._features(value, part)] * self.count]
            return [self.fma(*three) for three in zip(weights * len(parts), features, carried, strict=True)]

        return self.loop(start, end, 1, [self.constant(0.0, LANES)] * (self.count * len(parts)), token)

    def _query(self, i: int, part: int) -> ir.Value:
        return self.offset(self.place["queries"], (i * self.dim + part * LANES) * 4)

    def _features(self, address: ir.Value, part: int) -> ir.Value:
        loaded = self.load(self.offset(address, part * LANES * 2), ir.VectorType(F16, LANES), align=2)
        return self.builder.fpext(loaded, self.vector)


class _ByteAttention(Attention):
    """int8 keys and values, multiplied as whole numbers with queries and weights of 16 bits.

    A query has one scale, the weights of a block one for each query: the block's largest weight is 1.
    """

    def __init__(self, module: ir.Module, variant: Variant, name: str, dim: int, count: int) -> None:
        super().__init__(module, variant, name, dim, count)
        self.token_bytes = dim + SCALE_BYTES
        self.sums, self.words = ir.VectorType(I32, LANES), ir.VectorType(I16, 2 * LANES)

    def take_queries(self, addresses: Values) -> None:
        b, factor = self.builder, self.load(self.a[AttentionArg.SCALE], F32, align=4)
        for i, address in enumerate(addresses):
            wide, scale = self.to_whole(self.load(address, ir.VectorType(F32, self.dim), align=4), _LARGEST_WORD)
            self.store(
                b.trunc(wide, ir.VectorType(I16, self.dim)), self.offset(self.place["queries"], i * self.dim * 2)
            )
            self.store(b.fmul(scale, factor), self.offset(self.place["factors"], i * 4), align=4)

    def take_block(self, keys: ir.Value, values: ir.Value, start: ir.Value, end: ir.Value) -> None:
        for name in ("key_scales", "value_scales"):
            for i in range(BLOCK_TOKENS // LANES):
                self.store(self.constant(0.0, LANES), self.offset(self.place[name], i * LANES * 4), align=4)

        b = self.builder

        def some(t: ir.Value, count: int) -> Values:
            for name, rows in (("key_scales", keys), ("value_scales", values)):
                source = self.offset(self.offset(rows, t, self.token_bytes), self.dim)
                place = self.offset(self.place[name], b.sub(t, start), 4)
                for i in range(count):
                    scale = self.load(self.offset(source, i * self.token_bytes), F32)
                    self.store(scale, self.offset(place, i * 4), align=4)
            return []

        middle = b.sub(end, b.and_(b.sub(end, start), ir.Constant(I64, _TOKENS_AT_ONCE - 1)))
        self.loop(start, middle, _TOKENS_AT_ONCE, [], lambda t, _: some(t, _TOKENS_AT_ONCE))
        self.loop(middle, end, 1, [], lambda t, _: some(t, 1))

    def dots(self, keys: Values, token: ir.Value) -> ir.Value:
        b, count = self.builder, len(keys) * self.count

        def some(at: ir.Value, sums: Values) -> Values:
            places = [b.add(key, at) for key in keys]
            features = [b.sext(self.load(place, ir.VectorType(I8, 2 * LANES)), self.words) for place in places]
            after = list(sums)
            for i in range(self.count):
                place = self.offset(self.offset(self.place["queries"], at, 2), i * self.dim * 2)
                query = self.load(place, self.words, align=2)
                for t, feature in enumerate(features):
                    lane = t * self.count + i
                    after[lane] = self._add_pairs(sums[lane], feature, query)
            return after

        # A loop, as otherwise the compiler takes multiplying and adding apart.
        zeros = [ir.Constant(self.sums, [0] * LANES)] * count
        sums = self.loop(ir.Constant(I64, 0), ir.Constant(I64, self.dim), 2 * LANES, zeros, some)
        found = b.sitofp(self.lanes_of(self.totals(sums), 0, count), ir.VectorType(F32, count))
        factors = self.load(self.place["factors"], ir.VectorType(F32, self.count), align=4)
        scales = self._by_token("key_scales", token, count)
        order = ir.Constant(ir.VectorType(I32, count), [lane % self.count for lane in range(count)])
        return b.fmul(b.fmul(found, b.shuffle_vector(factors, factors, order)), scales)

    def weigh(self) -> ir.Value | None:
        b, most = self.builder, BLOCK_TOKENS * self.count
        zero = ir.Constant(I64, 0)

        def scaled(t: ir.Value, carried: Values) -> Values:
            weights = self.load(self.offset(self.place["scores"], t, 4), self.vector, align=4)
            found = b.fmul(weights, self._by_token("value_scales", b.sdiv(t, ir.Constant(I64, self.count)), LANES))
            self.store(found, self.offset(self.place["scores"], t, 4), align=4)
            return [self._larger(found, carried[0]), b.fadd(found, carried[1])]

        nothing = self.constant(0.0, LANES)
        start = [self.constant(1e-30, LANES), nothing]
        largest, total = self.loop(zero, ir.Constant(I64, most), LANES, start, scaled)
        largest = self._over_lanes(self._larger, largest)
        share = b.fdiv(self.constant(_LARGEST_WORD, LANES), largest)
        together = max(1, 2 * self.count // LANES)
        lanes = together * LANES
        # Two tokens' weights of a query side by side.
        pairs = [lane // (2 * self.count) * 2 * self.count + lane % 2 * self.count + lane // 2 % self.count
                 for lane in range(lanes)]  # fmt: skip

        def rounded(t: ir.Value, _: Values) -> Values:
            whole = []
            for i in range(together):
                place = self.offset(self.offset(self.place["scores"], t, 4), i * LANES * 4)
                nearest = self.fma(self.load(place, self.vector, align=4), share, self.constant(0.5, LANES))
                whole.append(b.trunc(b.fptosi(nearest, self.sums), ir.VectorType(I16, LANES)))
            paired = b.shuffle_vector(whole[0], whole[-1], ir.Constant(ir.VectorType(I32, lanes), pairs))
            self.store(paired, self.offset(self.place["weights"], t, 2), align=2)
            return []

        self.loop(zero, ir.Constant(I64, most), lanes, [], rounded)
        # A value that is no number would be lost among whole ones.
        spoilt = b.fmul(self._over_lanes(b.fadd, total), nothing)
        return self.fma(largest, self.constant(1 / _LARGEST_WORD, LANES), spoilt)

    def mix(self, values: ir.Value, start: ir.Value, end: ir.Value, parts: range) -> Values:
        b = self.builder
        last = b.sub(end, ir.Constant(I64, 1))
        wide = len(parts) % _PARTS_WIDE == 0

        def two(t: ir.Value, carried: Values) -> Values:
            other = b.add(t, ir.Constant(I64, 1))
            other = b.select(b.icmp_signed("<", other, last), other, last)
            rows = [self.offset(values, token, self.token_bytes) for token in (t, other)]
            place = self.offset(self.place["weights"], b.sub(t, start), self.count * 2)
            weights = [self._twice(self.offset(place, i * 4)) for i in range(self.count)]
            after = []
            for index, features in enumerate(self._paired(rows, parts, wide=wide)):
                mine = carried[index * self.count : (index + 1) * self.count]
                after += [self._add_pairs(total, features, weight) for total, weight in zip(mine, weights, strict=True)]
            return after

        # Zero, which the compiler does not know: it would turn the sums into fp32 in every turn.
        zeros = [self.splat(b.lshr(b.trunc(end, I32), ir.Constant(I32, 31)), LANES)] * (self.count * len(parts))
        totals = [b.sitofp(total, self.vector) for total in self.loop(start, end, 2, zeros, two)]
        return self._in_order(totals) if wide else totals

    def _paired(self, rows: Values, parts: range, *, wide: bool) -> Values:
        """Two tokens' features side by side as words; ``wide``: in the order that costs the fewest steps."""
        b, lanes = self.builder, LANES * (_PARTS_WIDE if wide else 1)
        found = []
        for part in parts[:: lanes // LANES]:
            pair = [self.load(self.offset(row, part * LANES), ir.VectorType(I8, lanes)) for row in rows]
            if not wide:
                found.append(self._picked(pair, [lane // 2 + lane % 2 * lanes for lane in range(2 * lanes)]))
                continue
            for half in (0, 8):
                # Within each 16 bytes, as CPUs have it.
                order = [i // 16 * 16 + i % 16 // 2 + half + i % 2 * lanes for i in range(lanes)]
                found += [self._picked(pair, order[first : first + 2 * LANES]) for first in (0, 2 * LANES)]
        return [b.sext(each, self.words) for each in found]

    def _picked(self, pair: Values, order: list[int]) -> ir.Value:
        return self.builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, len(order)), order))

    def _in_order(self, totals: Values) -> Values:
        """Sums in the order of ``wide`` features, part by part."""
        found, half, many = [], LANES // 2, _PARTS_WIDE * self.count
        for first in range(0, len(totals), many):
            low0, low1, high0, high1 = (totals[at : at + self.count] for at in range(first, first + many, self.count))
            for lows, highs in ((low0, high0), (low1, high1)):
                for at in (0, half):
                    order = [*range(at, at + half), *range(LANES + at, LANES + at + half)]
                    found += [self._picked(list(pair), order) for pair in zip(lows, highs, strict=True)]
        return found

    def _twice(self, place: ir.Value) -> ir.Value:
        """Two 16-bit numbers, over and over."""
        return self.builder.bitcast(self.splat(self.load(place, I32, align=2), LANES), self.words)

    def _by_token(self, name: str, token: ir.Value, lanes: int) -> ir.Value:
        """Each query's lane of some tokens with the token's scale."""
        tokens = max(1, lanes // self.count)
        scales = self.load(self.offset(self.place[name], token, 4), ir.VectorType(F32, tokens), align=4)
        order = ir.Constant(ir.VectorType(I32, lanes), [lane // self.count for lane in range(lanes)])
        return self.builder.shuffle_vector(scales, scales, order)

    def _add_pairs(self, total: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
        """``total`` plus the sums of two products of 16-bit numbers each."""
        b = self.builder
        if self.variant.lanes == LANES:
            return self.call(_VPDPWSSD, self.sums, [total, *(b.bitcast(v, self.sums) for v in (x, y))])
        half = ir.VectorType(I32, LANES)
        halves = []
        for first in (0, LANES):
            order = ir.Constant(half, list(range(first, first + LANES)))
            some = [b.shuffle_vector(v, v, order) for v in (x, y)]
            halves.append(self.call("llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, LANES // 2), some))
        return b.add(total, b.shuffle_vector(*halves, ir.Constant(half, list(range(LANES)))))
