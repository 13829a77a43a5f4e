"""Writes the activations GELU and SwiGLU as LLVM code.

Kernels have the form described in :mod:`.writer`; argument words are in the order of :class:`GateArg`. Strides are in
bytes. Knows nothing of tensors.
"""

from __future__ import annotations

from enum import IntEnum

from llvmlite import ir

from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.int4.kernels.writer import F32, I64, KernelWriter, Values

LANES = 16


class GateArg(IntEnum):
    """``UNITS`` is the row length of the result; the work range is rows."""

    X = 0
    X_ROW = 1
    OUT = 2
    OUT_ROW = 3
    UNITS = 4


def build_gates(variant: Variant, triple: str) -> ir.Module:
    """``gelu`` (tanh form) and ``swiglu``, over ``UNITS`` (a multiple of 16) numbers a row."""
    module = ir.Module(name="gates")
    module.triple = triple
    _Gate(module, variant, "gelu").emit(swiglu=False)
    _Gate(module, variant, "swiglu").emit(swiglu=True)
    return module


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
