"""A small vocabulary for writing kernels as LLVM code: loads, stores, splats, loops, exponentials.

Every kernel is ``void (i64 args, i64 first, i64 last, i64 scratch)``: the address of int64
argument words, a range of work, and scratch memory. Knows nothing of what the kernels compute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeVar

from llvmlite import ir

from chatglm_backend.int4.kernels.variants import Variant

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()

Values = list[ir.Value]
Word = TypeVar("Word", bound=IntEnum)

_EXPONENT_ALL_ONES = 0x7F800000


class KernelWriter:
    """One function under construction, with the vector vocabulary that the kernels share."""

    def __init__(self, module: ir.Module, variant: Variant, name: str) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 4)
        self.function = ir.Function(module, kind, name)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.module, self.variant, self.lanes = module, variant, variant.lanes
        self.args, self.first, self.last, self.scratch = self.function.args
        self.int_vector = ir.VectorType(I32, self.lanes)
        self.float_vector = ir.VectorType(F32, self.lanes)
        self.byte_vector = ir.VectorType(I8, self.lanes * 4)

    def arg(self, which: int) -> ir.Value:
        """The argument word at index ``which``."""
        return self.load(self.offset(self.args, int(which) * 8), I64, align=8)

    def table(self, address: ir.Value, kind: type[Word]) -> dict[Word, ir.Value]:
        """All int64 words of a ``kind`` of table, the first of them at ``address``."""
        return {word: self.load(self.offset(address, word * 8), I64, align=8) for word in kind}

    def offset(self, address: ir.Value, by: ir.Value | int, scale: int = 1) -> ir.Value:
        """``address + by * scale``, in bytes."""
        b = self.builder
        by = ir.Constant(I64, by * scale) if isinstance(by, int) else b.mul(by, ir.Constant(I64, scale))
        return b.add(address, by)

    def load(self, address: ir.Value, kind: ir.Type, align: int = 1) -> ir.Value:
        """The ``kind`` at an address."""
        value = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        value.align = align
        return value

    def store(self, value: ir.Value, address: ir.Value, align: int = 1) -> None:
        """Put ``value`` at an address."""
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = align

    def splat(self, value: ir.Value, lanes: int) -> ir.Value:
        """A vector with ``value`` in every lane."""
        kind = ir.VectorType(value.type, lanes)
        single = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        return self.builder.shuffle_vector(single, ir.Constant(kind, ir.Undefined), mask)

    def joined(self, values: Values) -> ir.Value:
        """Numbers as the lanes of a vector; a single one as it is."""
        if len(values) == 1:
            return values[0]
        vector = ir.Constant(ir.VectorType(values[0].type, len(values)), ir.Undefined)
        for lane, value in enumerate(values):
            vector = self.builder.insert_element(vector, value, ir.Constant(I32, lane))
        return vector

    def ask_for(self, address: ir.Value, level: int) -> None:
        """Have a cache line brought into the cache of ``level`` 1 or 2; where there is none this is harmless."""
        words = [ir.Constant(I32, word) for word in (0, 4 - level, 1)]
        place = self.builder.inttoptr(address, I8.as_pointer())
        self.call("llvm.prefetch.p0", ir.VoidType(), [place, *words])

    def call(self, name: str, result: ir.Type, args: Sequence[ir.Value]) -> ir.Value:
        """Call an LLVM intrinsic, declared at first use."""
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(result, [a.type for a in args]), name)
        return self.builder.call(function, args)

    def loop(
        self,
        first: ir.Value,
        last: ir.Value,
        step: int,
        carried: Values,
        body: Callable[[ir.Value, Values], Values],
    ) -> Values:
        """``for i in range(first, last, step)``; ``body`` turns the carried values into the next ones."""
        b, before = self.builder, self.builder.block
        head, inside, done = (self.function.append_basic_block(n) for n in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(first, before)
        phis = [b.phi(v.type) for v in carried]
        for phi, value in zip(phis, carried, strict=True):
            phi.add_incoming(value, before)
        b.cbranch(b.icmp_signed("<", index, last), inside, done)
        b.position_at_end(inside)
        after = body(index, list(phis))
        index.add_incoming(b.add(index, ir.Constant(I64, step)), b.block)
        for phi, value in zip(phis, after, strict=True):
            phi.add_incoming(value, b.block)
        b.branch(head)
        b.position_at_end(done)
        return list(phis)

    def constant(self, value: float, lanes: int) -> ir.Value:
        """The same fp32 number in every lane."""
        return ir.Constant(ir.VectorType(F32, lanes), [value] * lanes)

    def total(self, vector: ir.Value) -> ir.Value:
        """The sum of the lanes, by halving."""
        return self.lanes_of(self.totals([vector]), 0, 1)

    def totals(self, vectors: Values) -> ir.Value:
        """The sums of the lanes of each vector, by halving, in the first lanes of one; a power of 2 in number."""
        b, lanes = self.builder, vectors[0].type.count
        half, kind = lanes // 2, ir.VectorType(I32, lanes)
        while half:
            low = [i for i in range(lanes) if not i & half]
            pairs = zip(vectors[::2], vectors[1::2] or vectors, strict=True)
            orders = [ir.Constant(kind, [first + i + up for first in (0, lanes) for i in low]) for up in (0, half)]
            join = b.fadd if vectors[0].type.element == F32 else b.add
            vectors = [join(*(b.shuffle_vector(*pair, order) for order in orders)) for pair in pairs]
            half //= 2
        return vectors[0]

    def lanes_of(self, vector: ir.Value, first: int, count: int) -> ir.Value:
        """The number in lane ``first``, or a vector of so many from there on."""
        if count == 1:
            return self.builder.extract_element(vector, ir.Constant(I32, first))
        order = ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
        return self.builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), order)

    def to_whole(self, values: ir.Value, most: float) -> tuple[ir.Value, ir.Value]:
        """An fp32 vector as whole numbers of at most ``most``, int32, and their scale.

        The magnitudes are compared as integers, where NaN and infinity are the largest: such a vector gets the scale
        NaN and zeros, so that what is made of it is NaN, as exact arithmetic's mostly is.
        """
        b, floats = self.builder, values.type
        lanes = floats.count
        ints = ir.VectorType(I32, lanes)
        sizes = b.and_(b.bitcast(values, ints), ir.Constant(ints, [0x7FFFFFFF] * lanes))
        largest = self.call(f"llvm.vector.reduce.umax.v{lanes}i32", I32, [sizes])
        finite = b.icmp_unsigned("<", largest, ir.Constant(I32, _EXPONENT_ALL_ONES))
        scale = b.fdiv(b.bitcast(largest, F32), ir.Constant(F32, most))
        usable = b.and_(finite, b.fcmp_ordered(">", scale, ir.Constant(F32, 1e-37)))
        inverse = b.fdiv(ir.Constant(F32, 1.0), b.select(usable, scale, ir.Constant(F32, 1.0)))
        inverse = b.select(usable, inverse, ir.Constant(F32, 0.0))
        safe = b.select(finite, values, ir.Constant(floats, [0.0] * lanes))
        rounded = self.call(f"llvm.rint.v{lanes}f32", floats, [b.fmul(safe, self.splat(inverse, lanes))])
        return b.fptosi(rounded, ints), b.select(finite, scale, ir.Constant(F32, float("nan")))

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """``a * b + c`` of fp32 vectors."""
        return self.call(f"llvm.fma.v{a.type.count}f32", a.type, [a, b, c])

    def exp(self, x: ir.Value) -> ir.Value:
        """E to the power of an fp32 vector, relative error about 1e-7 * |x| + 2e-7; below -87 it is about 1e-38."""
        b, lanes = self.builder, x.type.count
        ints = ir.VectorType(I32, lanes)
        for name, bound in (("maxnum", -87.0), ("minnum", 88.0)):
            x = self.call(f"llvm.{name}.v{lanes}f32", x.type, [x, self.constant(bound, lanes)])
        power = b.fmul(x, self.constant(1.4426950408889634, lanes))
        whole = self.call(f"llvm.rint.v{lanes}f32", x.type, [power])
        # The remainder x - whole * ln 2, with ln 2 in two parts so that little is lost.
        rest = self.fma(whole, self.constant(-0.693359375, lanes), x)
        rest = self.fma(whole, self.constant(2.12194440e-4, lanes), rest)
        result = self.constant(1 / 720, lanes)
        for factor in (1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
            result = self.fma(result, rest, self.constant(factor, lanes))
        exponent = b.shl(b.fptosi(whole, ints), ir.Constant(ints, [23] * lanes))
        return b.bitcast(b.add(b.bitcast(result, ints), exponent), x.type)
