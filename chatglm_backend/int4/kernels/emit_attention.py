"""Writes attention over 16-bit or 8-bit keys and values as LLVM code.

Several queries that see the same keys and values share each read of them: heads of a group, or rows of a head. They
pass over some tokens at a time, as many as the nearest cache holds: scores, their largest, weights, and the mix of
the values, which is then added to what the tokens before have given. Every number is worked out in the same order
however many queries there are, so that its bits do not depend on what is computed beside it.

The kernel has the form described in :mod:`.writer`; strides are in bytes. Knows nothing of tensors.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from enum import IntEnum

from llvmlite import ir

from chatglm_backend.int4.kernels.emit_rows import CacheWord
from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.int4.kernels.writer import F32, I32, I64, KernelWriter, Values

LANES = 16
BLOCK_TOKENS = 64
_LINE = 64
_LOWEST = -1e30
"""Below every score, and finite, so that two such may be subtracted."""
_FAR = -60.0
"""A score so far below the largest weighs nothing in fp32; sums of such weights would be denormal, which is slow."""


class AttentionArg(IntEnum):
    """An item is some queries, ``EACH`` bytes apart, of a head, or of heads if ``STEP`` is their number.

    Items of one row, or of as many as there are queries, follow one another: ``OUTER`` bytes to the next. ``CACHES`` is
    the address of their :class:`CacheWord`, ``VISIBLE`` that of int64 counts, ``SCALE`` that of one fp32 number.
    """

    Q = 0
    Q_OUTER = 1
    Q_HEAD = 2
    Q_EACH = 3
    CACHES = 4
    CACHES_OUTER = 5
    OUT = 6
    OUT_OUTER = 7
    OUT_EACH = 8
    VISIBLE = 9
    VISIBLE_OUTER = 10
    VISIBLE_EACH = 11
    HEADS = 12
    GROUP = 13
    STEP = 14
    SCALE = 15


def query_counts(variant: Variant) -> tuple[int, ...]:
    """How many queries a kernel takes, most first, as registers allow."""
    return (16, 4, 1) if variant.lanes == LANES else (4, 1)


def scratch_bytes(dim: int) -> int:
    """What a thread needs."""
    return _Scratch(LANES, dim).end


def takes(dim: int, *, int8: bool) -> bool:
    """Whether the compiled code is for heads of ``dim`` features."""
    return dim % (2 * LANES if int8 else LANES) == 0 and dim <= 512  # sums of words times bytes fit 32 bits


class _Scratch:
    """Where things lie in a thread's scratch, in bytes."""

    def __init__(self, count: int, dim: int) -> None:
        self.scores = 0
        self.old = self.scores + BLOCK_TOKENS * count * 4
        self.new = self.old + LANES * 4
        self.factors = self.new + LANES * 4
        self.key_scales = self.factors + LANES * 4
        self.value_scales = self.key_scales + BLOCK_TOKENS * 4
        self.weights = self.value_scales + BLOCK_TOKENS * 4
        self.queries = self.weights + BLOCK_TOKENS * count * 2
        self.end = self.queries + count * dim * 4


class Attention(KernelWriter):
    """What both formats share; a subclass knows how keys and values are read."""

    token_bytes: int

    def __init__(self, module: ir.Module, variant: Variant, name: str, dim: int, count: int) -> None:
        super().__init__(module, variant, name)
        self.dim, self.count, self.parts = dim, count, dim // LANES
        # Sums that are held at once: of so many queries and tokens, or queries and parts of the features.
        held = query_counts(variant)[0]
        self.tokens_held, self.parts_held = held // count, max(1, min(self.parts, held // count))
        self.vector = ir.VectorType(F32, LANES)
        self.a = {which: self.arg(which) for which in AttentionArg}
        places = _Scratch(count, dim)
        self.place = {name: self.offset(self.scratch, at) for name, at in vars(places).items()}

    def emit(self) -> None:
        """Write the whole function."""
        self.loop(self.first, self.last, 1, [], self._item)
        self.builder.ret_void()

    @abstractmethod
    def take_queries(self, addresses: Values) -> None:
        """Put the scaled queries into scratch."""

    @abstractmethod
    def take_block(self, keys: ir.Value, values: ir.Value, start: ir.Value, end: ir.Value) -> None:
        """Look at the tokens of a block."""

    @abstractmethod
    def dots(self, keys: Values, token: ir.Value) -> ir.Value:
        """Scores of ``tokens_held`` keys, the first of which is ``token`` of the block, with all queries."""

    @abstractmethod
    def weigh(self) -> ir.Value | None:
        """Make a block's weights ready for :meth:`mix`; by what the mix is to be multiplied, if by anything."""

    @abstractmethod
    def mix(self, values: ir.Value, start: ir.Value, end: ir.Value, parts: range) -> Values:
        """The weighted values of a block: part by part, of all queries each."""

    def _item(self, item: ir.Value, _: Values) -> Values:
        b, a = self.builder, self.a
        inner = b.sdiv(a[AttentionArg.HEADS], a[AttentionArg.STEP])
        outer, head = b.sdiv(item, inner), b.mul(b.srem(item, inner), a[AttentionArg.STEP])
        shared = b.sdiv(head, a[AttentionArg.GROUP])
        cache = self.table(b.add(a[AttentionArg.CACHES], b.mul(outer, a[AttentionArg.CACHES_OUTER])), CacheWord)
        keys = b.add(cache[CacheWord.KEYS], b.mul(shared, cache[CacheWord.KEYS_HEAD]))
        values = b.add(cache[CacheWord.VALUES], b.mul(shared, cache[CacheWord.VALUES_HEAD]))

        def each(base: ir.Value, step: ir.Value) -> Values:
            return [b.add(base, b.mul(step, ir.Constant(I64, i))) for i in range(self.count)]

        seen = b.add(a[AttentionArg.VISIBLE], b.mul(outer, a[AttentionArg.VISIBLE_OUTER]))
        visible = [self.load(place, I64, align=8) for place in each(seen, a[AttentionArg.VISIBLE_EACH])]
        longest = visible[0]
        for other in visible[1:]:
            longest = b.select(b.icmp_signed(">", other, longest), other, longest)
        limits = self._repeated(self.joined([b.trunc(v, I32) for v in visible]))
        query = b.add(a[AttentionArg.Q], b.mul(outer, a[AttentionArg.Q_OUTER]))
        self.take_queries(each(b.add(query, b.mul(head, a[AttentionArg.Q_HEAD])), a[AttentionArg.Q_EACH]))
        out = b.add(a[AttentionArg.OUT], b.mul(outer, a[AttentionArg.OUT_OUTER]))
        outs = each(b.add(out, self.offset(ir.Constant(I64, 0), head, self.dim * 4)), a[AttentionArg.OUT_EACH])
        for place in outs:
            for part in range(self.parts):
                self.store(self.constant(0.0, LANES), self.offset(place, part * LANES * 4), align=4)

        def block(start: ir.Value, carried: Values) -> Values:
            whole = b.add(start, ir.Constant(I64, BLOCK_TOKENS))
            end = b.select(b.icmp_signed("<", whole, longest), whole, longest)
            self.take_block(keys, values, start, end)
            self._scores(keys, values, start, end, limits)
            most, total = self._weights(*carried)
            for first in range(0, self.parts, self.parts_held):
                parts = range(first, min(first + self.parts_held, self.parts))
                self._add(outs, parts, self.mix(values, start, end, parts))
            return [most, total]

        start = [self.constant(_LOWEST, LANES), self.constant(0.0, LANES)]
        _, total = self.loop(ir.Constant(I64, 0), longest, BLOCK_TOKENS, start, block)
        self.store(b.fdiv(self.constant(1.0, LANES), total), self.place["new"], align=4)
        for i, out in enumerate(outs):
            share = self._splat_of("new", i)
            for part in range(self.parts):
                place = self.offset(out, part * LANES * 4)
                self.store(b.fmul(self.load(place, self.vector, align=4), share), place, align=4)
        return []

    def _scores(self, keys: ir.Value, values: ir.Value, start: ir.Value, end: ir.Value, limits: ir.Value) -> None:
        """Those of a block, token by token, of all queries each; what is not visible is far below all."""
        b, step, wide = self.builder, self.tokens_held, self.tokens_held * self.count
        last = b.sub(end, ir.Constant(I64, 1))
        ints = ir.VectorType(I32, wide)
        below = self.lanes_of(limits, 0, wide) if wide > 1 else limits
        behind = ir.Constant(ints, [lane // self.count for lane in range(wide)])

        def place(t: ir.Value) -> ir.Value:
            return self.offset(self.place["scores"], b.sub(t, start), self.count * 4)

        def some(t: ir.Value, _: Values) -> Values:
            tokens = [b.add(t, ir.Constant(I64, i)) for i in range(step)]
            later = b.add(t, ir.Constant(I64, BLOCK_TOKENS))
            # The fewer queries share a row, the fewer lines: CPUs go on by themselves, but stop at the end of a page.
            for line in range(0, step * self.token_bytes, _LINE * step):
                for rows in (keys, values):
                    self.ask_for(self.offset(self.offset(rows, later, self.token_bytes), line), 2)
            if step > 1:
                tokens = [b.select(b.icmp_signed("<", token, last), token, last) for token in tokens]
            found = self.dots([self.offset(keys, token, self.token_bytes) for token in tokens], b.sub(t, start))
            numbers = b.add(self.splat(b.trunc(t, I32), wide), behind)
            seen = b.icmp_signed("<", numbers, below)
            self.store(b.select(seen, found, self.constant(float("-inf"), wide)), place(t), align=4)
            return []

        def hide(t: ir.Value, _: Values) -> Values:
            self.store(self.constant(float("-inf"), wide), place(t), align=4)
            return []

        self.loop(start, end, step, [], some)
        rest = b.and_(b.add(b.sub(end, start), ir.Constant(I64, step - 1)), ir.Constant(I64, -step))
        self.loop(b.add(start, rest), b.add(start, ir.Constant(I64, BLOCK_TOKENS)), step, [], hide)

    def _weights(self, most: ir.Value, total: ir.Value) -> Values:
        """Turn a block's scores into weights; the largest score and the sum of all weights so far."""
        b, vectors = self.builder, BLOCK_TOKENS * self.count // LANES

        def scores(index: int) -> ir.Value:
            return self.load(self.offset(self.place["scores"], index * LANES * 4), self.vector, align=4)

        here = self._larger(self._over_tokens(self._larger, scores, vectors), self.constant(_LOWEST, LANES))

        def some(t: ir.Value, _: Values) -> Values:
            place = self.offset(self.place["scores"], t, 4)
            self.store(self._exp(b.fsub(self.load(place, self.vector, align=4), here)), place, align=4)
            return []

        self.loop(ir.Constant(I64, 0), ir.Constant(I64, vectors * LANES), LANES, [], some)
        after = self._larger(most, here)
        old, new = self._exp(b.fsub(most, after)), self._exp(b.fsub(here, after))
        mine = self._over_tokens(b.fadd, scores, vectors)
        factor = self.weigh()
        self.store(old, self.place["old"], align=4)
        self.store(b.fmul(new, factor) if factor else new, self.place["new"], align=4)
        return [after, self.fma(mine, new, b.fmul(total, old))]

    def _larger(self, x: ir.Value, y: ir.Value) -> ir.Value:
        return self.call(f"llvm.maxnum.v{LANES}f32", self.vector, [x, y])

    def _exp(self, below: ir.Value) -> ir.Value:
        far = self.builder.fcmp_ordered("<", below, self.constant(_FAR, LANES))
        return self.builder.select(far, self.constant(0.0, LANES), self.exp(below))

    def _over_tokens(
        self, join: Callable[[ir.Value, ir.Value], ir.Value], leaf: Callable[[int], ir.Value], count: int
    ) -> ir.Value:
        """All tokens' numbers joined by halving, query by query, in every lane that is the query's."""

        def tree(first: int, step: int) -> ir.Value:
            return join(tree(first, 2 * step), tree(first + step, 2 * step)) if step < count else leaf(first)

        return self._over_lanes(join, tree(0, 1))

    def _over_lanes(self, join: Callable[[ir.Value, ir.Value], ir.Value], result: ir.Value) -> ir.Value:
        distance = LANES // 2
        while distance >= self.count:
            order = ir.Constant(ir.VectorType(I32, LANES), [lane ^ distance for lane in range(LANES)])
            result = join(result, self.builder.shuffle_vector(result, result, order))
            distance //= 2
        return result

    def _add(self, outs: Values, parts: range, mixed: Values) -> None:
        """Go on with the sums that stand in ``outs``."""
        b = self.builder
        for i, out in enumerate(outs):
            old, new = self._splat_of("old", i), self._splat_of("new", i)
            for index, part in enumerate(parts):
                place = self.offset(out, part * LANES * 4)
                before = b.fmul(self.load(place, self.vector, align=4), old)
                self.store(self.fma(mixed[index * self.count + i], new, before), place, align=4)

    def _splat_of(self, name: str, lane: int) -> ir.Value:
        return self.splat(self.load(self.offset(self.place[name], lane * 4), F32, align=4), LANES)

    def _repeated(self, values: ir.Value) -> ir.Value:
        """One number for each query, or a vector of as many or fewer, over and over."""
        if not isinstance(values.type, ir.VectorType):
            return self.splat(values, LANES)
        order = [lane % values.type.count for lane in range(LANES)]
        return self.builder.shuffle_vector(values, values, ir.Constant(ir.VectorType(I32, LANES), order))
