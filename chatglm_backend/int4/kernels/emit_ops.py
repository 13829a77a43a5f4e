"""Writes the operations between the products as LLVM code: attention over 16-bit or 8-bit keys and values,
GELU, SwiGLU.

Kernels have the form described in :mod:`.writer`; argument words are in the order of
:class:`AttentionArg` or :class:`GateArg`. Strides are in bytes. Knows nothing of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from llvmlite import ir

from chatglm_backend.int4.kernels.emit_rows import StoreBytes
from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.int4.kernels.writer import F16, F32, I8, I32, I64, KernelWriter, Values
from chatglm_backend.models.int8_rows import SCALE_BYTES

LANES = 16
HEADS_TOGETHER = 4
"""Heads of one group that share each read of a key or value in the kernel for one row."""
_BLOCK_TOKENS = 64
"""Tokens whose keys stay in the nearest cache while the heads of a group pass."""
_NEGATIVE_INFINITY = float("-inf")
_FAR = -60.0
"""A score so far below the largest weighs nothing in fp32; sums of such weights would be denormal, which is slow."""


class AttentionArg(IntEnum):
    """``VISIBLE`` is the address of int64 counts per row; ``SCALE`` that of one fp32 number.

    ``QUADS`` times four heads of one group are an item of ``attend_heads``.
    """

    Q = 0
    Q_ROW = 1
    Q_HEAD = 2
    KEYS = 3
    KEYS_HEAD = 4
    VALUES = 5
    VALUES_HEAD = 6
    OUT = 7
    OUT_ROW = 8
    VISIBLE = 9
    HEADS = 10
    GROUP = 11
    SCALE = 12
    ROW0 = 13
    SCORES_ROW = 14
    QUADS = 15


class GateArg(IntEnum):
    """``UNITS`` is the row length of the result; the work range is rows."""

    X = 0
    X_ROW = 1
    OUT = 2
    OUT_ROW = 3
    UNITS = 4


def attention_rows(variant: Variant) -> int:
    """Query rows that share each read of a key or value in the kernel for many rows, as registers allow."""
    return 8 if variant.lanes == LANES else 4


def build_attention(variant: Variant, triple: str, dim: int, *, int8: bool) -> ir.Module:
    """``attend_1`` and ``attend_8``, or as many as there are registers for, for heads of ``dim`` features (16 n).

    The work range counts (blocks of rows) x heads, heads fastest; keys and values are fp16, or ``int8`` as
    :mod:`chatglm_backend.models.int8_rows` has them, which ``store`` then writes. ``attend_heads`` takes one row,
    several heads of the same keys and values together; every number is what ``attend_1`` makes of it. It has a head's
    sum at the end of its scores.
    """
    module = ir.Module(name=f"attention_{dim}")
    module.triple = triple
    for rows in (1, attention_rows(variant)):
        _Attention(module, variant, f"attend_{rows}", dim, rows, int8=int8).emit()
    _HeadsAttention(module, variant, "attend_heads", dim, HEADS_TOGETHER, int8=int8).emit()
    if int8:
        StoreBytes(module, variant, "store", dim).emit()
    return module


def build_gates(variant: Variant, triple: str) -> ir.Module:
    """``gelu`` (tanh form) and ``swiglu``, over ``UNITS`` (a multiple of 16) numbers a row."""
    module = ir.Module(name="gates")
    module.triple = triple
    _Gate(module, variant, "gelu").emit(swiglu=False)
    _Gate(module, variant, "swiglu").emit(swiglu=True)
    return module


class _Attention(KernelWriter):
    """Scores of all visible tokens into scratch, softmax in place, then the mix of the values."""

    def __init__(self, module: ir.Module, variant: Variant, name: str, dim: int, rows: int, *, int8: bool) -> None:
        super().__init__(module, variant, name)
        self.int8, self.token_bytes = int8, dim + SCALE_BYTES if int8 else 2 * dim
        self.dim, self.count, self.parts = dim, rows, dim // LANES
        self.vector = ir.VectorType(F32, LANES)
        self.arguments = {which: self.arg(which) for which in AttentionArg}

    def emit(self) -> None:
        self.loop(self.first, self.last, 1, [], self._item)
        self.builder.ret_void()

    def _item(self, item: ir.Value, _: Values) -> Values:
        b, a = self.builder, self.arguments
        heads = a[AttentionArg.HEADS]
        head = b.srem(item, heads)
        row = b.add(a[AttentionArg.ROW0], b.mul(b.sdiv(item, heads), ir.Constant(I64, self.count)))
        rows = [b.add(row, ir.Constant(I64, i)) for i in range(self.count)]
        visible = [self.load(self.offset(a[AttentionArg.VISIBLE], r, 8), I64, align=8) for r in rows]
        longest = visible[0]
        for other in visible[1:]:
            longest = b.select(b.icmp_signed(">", other, longest), other, longest)
        shared = b.sdiv(head, a[AttentionArg.GROUP])
        keys = b.add(a[AttentionArg.KEYS], b.mul(shared, a[AttentionArg.KEYS_HEAD]))
        values = b.add(a[AttentionArg.VALUES], b.mul(shared, a[AttentionArg.VALUES_HEAD]))
        scores = [self.offset(self.scratch, a[AttentionArg.SCORES_ROW], i) for i in range(self.count)]
        queries = [
            b.add(b.add(a[AttentionArg.Q], b.mul(r, a[AttentionArg.Q_ROW])), b.mul(head, a[AttentionArg.Q_HEAD]))
            for r in rows
        ]
        self._scores(queries, keys, ir.Constant(I64, 0), longest, scores)
        sums = [self._softmax(s, v, longest) for s, v in zip(scores, visible, strict=True)]
        outs = [
            b.add(
                b.add(a[AttentionArg.OUT], b.mul(r, a[AttentionArg.OUT_ROW])),
                self.offset(ir.Constant(I64, 0), head, self.dim * 4),
            )
            for r in rows
        ]
        step = self.parts if self.count == 1 else min(4, self.parts)
        for first in range(0, self.parts, step):
            self._mix(scores, sums, values, longest, outs, range(first, min(first + step, self.parts)))
        return []

    def _features(self, address: ir.Value, part: int) -> ir.Value:
        """Some features of a token in fp32; in 8 bits without their scale."""
        b = self.builder
        if self.int8:
            loaded = self.load(self.offset(address, part * LANES), ir.VectorType(I8, LANES))
            return b.sitofp(b.sext(loaded, ir.VectorType(I32, LANES)), self.vector)
        loaded = self.load(self.offset(address, part * LANES * 2), ir.VectorType(F16, LANES), align=2)
        return b.fpext(loaded, self.vector)

    def _scores(self, queries: Values, keys: ir.Value, first: ir.Value, last: ir.Value, scores: Values) -> None:
        b = self.builder
        factor = self.splat(self.load(self.arguments[AttentionArg.SCALE], F32, align=4), LANES)
        query = [
            [b.fmul(self.load(self.offset(q, p * LANES * 4), self.vector, align=4), factor) for p in range(self.parts)]
            for q in queries
        ]

        def some(t: ir.Value, count: int) -> Values:
            places = [self.offset(keys, b.add(t, ir.Constant(I64, i)), self.token_bytes) for i in range(count)]
            sums = [[self.constant(0.0, LANES)] * count for _ in queries]
            for part in range(self.parts):
                features = [self._features(key, part) for key in places]
                for mine, parts in zip(sums, query, strict=True):
                    mine[:] = [self.fma(parts[part], *pair) for pair in zip(features, mine, strict=True)]
            totals = self.totals([total for mine in sums for total in mine])
            scales = [self.load(self.offset(key, self.dim), F32) for key in places] if self.int8 else []
            for i, place in enumerate(scores):
                few = self.lanes_of(totals, i * count, count)
                self.store(b.fmul(few, self.joined(scales)) if scales else few, self.offset(place, t, 4), align=4)
            return []

        step = max(1, min(self.lanes // self.count, 4))
        whole = b.sub(last, b.srem(b.sub(last, first), ir.Constant(I64, step)))
        self.loop(first, whole, step, [], lambda t, _: some(t, step))
        if step > 1:
            self.loop(whole, last, 1, [], lambda t, _: some(t, 1))

    def _softmax(self, scores: ir.Value, visible: ir.Value, tokens: ir.Value) -> ir.Value:
        """Turn scores into unnormalised weights; what is not visible becomes zero. Returns their sum."""
        b = self.builder
        padded = b.and_(b.add(tokens, ir.Constant(I64, LANES - 1)), ir.Constant(I64, -LANES))

        def hide(t: ir.Value, _: Values) -> Values:
            self.store(ir.Constant(F32, _NEGATIVE_INFINITY), self.offset(scores, t, 4), align=4)
            return []

        self.loop(visible, padded, 1, [], hide)
        zero = ir.Constant(I64, 0)

        def largest(t: ir.Value, carried: Values) -> Values:
            here = self.load(self.offset(scores, t, 4), self.vector, align=4)
            return [self.call(f"llvm.maxnum.v{LANES}f32", self.vector, [here, carried[0]])]

        (most,) = self.loop(zero, padded, LANES, [self.constant(_NEGATIVE_INFINITY, LANES)], largest)
        top = self.splat(self.call(f"llvm.vector.reduce.fmax.v{LANES}f32", F32, [most]), LANES)

        def weigh(t: ir.Value, carried: Values) -> Values:
            address = self.offset(scores, t, 4)
            below = b.fsub(self.load(address, self.vector, align=4), top)
            far = b.fcmp_ordered("<", below, self.constant(_FAR, LANES))
            weight = b.select(far, self.constant(0.0, LANES), self.exp(below))
            self.store(weight, address, align=4)
            return [b.fadd(carried[0], weight)]

        (total,) = self.loop(zero, padded, LANES, [self.constant(0.0, LANES)], weigh)
        return self.total(total)

    def _mix(
        self, scores: Values, sums: Values, values: ir.Value, tokens: ir.Value, outs: Values, parts: range
    ) -> None:
        b = self.builder
        start = [self.constant(0.0, LANES)] * (self.count * len(parts))
        mixed = self._weighted(scores, values, ir.Constant(I64, 0), tokens, start, parts)
        for i, (out, total) in enumerate(zip(outs, sums, strict=True)):
            share = self.splat(b.fdiv(ir.Constant(F32, 1.0), total), LANES)
            for index, part in enumerate(parts):
                result = b.fmul(mixed[index * self.count + i], share)
                self.store(result, self.offset(out, part * LANES * 4), align=4)

    def _weighted(
        self, scores: Values, values: ir.Value, first: ir.Value, last: ir.Value, start: Values, parts: range
    ) -> Values:
        """``start`` plus the weighted values of tokens ``first`` to ``last``: part by part, of all rows each."""

        def token(t: ir.Value, carried: Values) -> Values:
            value = self.offset(values, t, self.token_bytes)
            weights = [self.splat(self.load(self.offset(s, t, 4), F32, align=4), LANES) for s in scores]
            after = []
            if self.int8:
                scale = self.splat(self.load(self.offset(value, self.dim), F32), LANES)
            for index, part in enumerate(parts):
                feature = self._features(value, part)
                if self.int8:
                    feature = self.builder.fmul(feature, scale)
                after += [self.fma(w, feature, carried[index * self.count + i]) for i, w in enumerate(weights)]
            return after

        return self.loop(first, last, 1, start, token)


class _HeadsAttention(_Attention):
    """One row: the keys and values of a group are read once, some tokens at a time, for all heads of an item."""

    def _item(self, item: ir.Value, _: Values) -> Values:
        b, a = self.builder, self.arguments
        zero, four = ir.Constant(I64, 0), ir.Constant(I64, HEADS_TOGETHER)
        heads = b.mul(a[AttentionArg.QUADS], four)
        first = b.mul(item, heads)
        shared = b.sdiv(first, a[AttentionArg.GROUP])
        keys = b.add(a[AttentionArg.KEYS], b.mul(shared, a[AttentionArg.KEYS_HEAD]))
        values = b.add(a[AttentionArg.VALUES], b.mul(shared, a[AttentionArg.VALUES_HEAD]))
        tokens = self.load(a[AttentionArg.VISIBLE], I64, align=8)

        def scores_of(head: ir.Value) -> ir.Value:
            return b.add(self.scratch, b.mul(head, a[AttentionArg.SCORES_ROW]))

        def sum_of(head: ir.Value) -> ir.Value:
            return b.sub(scores_of(b.add(head, ir.Constant(I64, 1))), ir.Constant(I64, 4))

        def out_of(head: ir.Value) -> ir.Value:
            return self.offset(a[AttentionArg.OUT], b.add(first, head), self.dim * 4)

        def blocks(body: Callable[[ir.Value, ir.Value, Values], None]) -> None:
            """``body(start, end, heads)`` for each four heads of each few tokens."""

            def block(start: ir.Value, _: Values) -> Values:
                whole = b.add(start, ir.Constant(I64, _BLOCK_TOKENS))
                end = b.select(b.icmp_signed("<", whole, tokens), whole, tokens)

                def quad(head: ir.Value, _: Values) -> Values:
                    body(start, end, [b.add(head, ir.Constant(I64, i)) for i in range(HEADS_TOGETHER)])
                    return []

                self.loop(zero, heads, HEADS_TOGETHER, [], quad)
                return []

            self.loop(zero, tokens, _BLOCK_TOKENS, [], block)

        def score(start: ir.Value, end: ir.Value, few: Values) -> None:
            queries = [b.add(a[AttentionArg.Q], b.mul(b.add(first, h), a[AttentionArg.Q_HEAD])) for h in few]
            self._scores(queries, keys, start, end, [scores_of(h) for h in few])

        def weigh(head: ir.Value, _: Values) -> Values:
            self.store(self._softmax(scores_of(head), tokens, tokens), sum_of(head), align=4)
            for part in range(self.parts):
                self.store(self.constant(0.0, LANES), self.offset(out_of(head), part * LANES * 4), align=4)
            return []

        def mix(start: ir.Value, end: ir.Value, few: Values) -> None:
            scores, outs = [scores_of(h) for h in few], [out_of(h) for h in few]
            for part in range(0, self.parts, 4):
                self._some_mix(scores, values, start, end, outs, range(part, min(part + 4, self.parts)))

        def finish(head: ir.Value, _: Values) -> Values:
            total = self.load(sum_of(head), F32, align=4)
            share = self.splat(b.fdiv(ir.Constant(F32, 1.0), total), LANES)
            for part in range(self.parts):
                place = self.offset(out_of(head), part * LANES * 4)
                self.store(b.fmul(self.load(place, self.vector, align=4), share), place, align=4)
            return []

        blocks(score)
        self.loop(zero, heads, 1, [], weigh)
        blocks(mix)
        self.loop(zero, heads, 1, [], finish)
        return []

    def _some_mix(
        self, scores: Values, values: ir.Value, start: ir.Value, end: ir.Value, outs: Values, parts: range
    ) -> None:
        """Go on with the sums that stand in ``outs``."""
        places = [self.offset(out, part * LANES * 4) for part in parts for out in outs]
        before = [self.load(place, self.vector, align=4) for place in places]
        for place, mixed in zip(places, self._weighted(scores, values, start, end, before, parts), strict=True):
            self.store(mixed, place, align=4)


class _Gate(KernelWriter):
    """Elementwise activations, by rows."""

    def emit(self, *, swiglu: bool) -> None:
        x, x_row, out, out_row, units = (self.arg(which) for which in GateArg)
        b, vector = self.builder, ir.VectorType(F32, LANES)

        def row(r: ir.Value, _: Values) -> Values:
            source, result = b.add(x, b.mul(r, x_row)), b.add(out, b.mul(r, out_row))

            def few(t: ir.Value, _: Values) -> Values:
                value = self.load(self.offset(source, t, 4), vector, align=4)
                scaled = value if swiglu else self._gelu_argument(value)
                denominator = b.fadd(self.constant(1.0, LANES), self.exp(b.fsub(self.constant(0.0, LANES), scaled)))
                gated = b.fdiv(value, denominator)
                if swiglu:
                    up = self.offset(source, b.add(t, units), 4)
                    gated = b.fmul(gated, self.load(up, vector, align=4))
                self.store(gated, self.offset(result, t, 4), align=4)
                return []

            self.loop(ir.Constant(I64, 0), units, LANES, [], few)
            return []

        self.loop(self.first, self.last, 1, [], row)
        b.ret_void()

    def _gelu_argument(self, x: ir.Value) -> ir.Value:
        """Twice the argument of the tanh: 0.5 (1 + tanh u) = 1 / (1 + e^-2u)."""
        b = self.builder
        inner = self.fma(b.fmul(x, x), self.constant(0.044715, LANES), self.constant(1.0, LANES))
        return b.fmul(b.fmul(x, self.constant(1.5957691216057308, LANES)), inner)
