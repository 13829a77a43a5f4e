"""The models' operations between products, compiled where it shows: attention over a 16-bit cache, rotary
positions, norms, GELU, SwiGLU.

Everything else, and whatever shape or dtype the compiled code does not take, is left to
:class:`~chatglm_backend.models.ops.TorchOps`. Shares its threads with the products.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from chatglm_backend.int4.kernels.emit_ops import (
    ATTENTION_ROWS,
    LANES,
    AttentionArg,
    GateArg,
    build_attention,
    build_gates,
)
from chatglm_backend.int4.kernels.emit_rows import ROW_LANES, NormArg, RotaryArg, build_rows
from chatglm_backend.int4.kernels.native import NativeKernels, compile_module
from chatglm_backend.int4.kernels.team import Team
from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.models.ops import RotaryTable, TorchOps

__all__ = ["CompiledOps"]


class CompiledOps(TorchOps):
    """:class:`~chatglm_backend.models.ops.Ops` with the costly ones compiled for ``variant``."""

    name = "compiled"

    def __init__(self, team: Team, variant: Variant) -> None:
        self._team, self._variant = team, variant
        self._gates = compile_module(variant, lambda triple: build_gates(variant, triple))
        self._rows = compile_module(variant, lambda triple: build_rows(variant, triple))
        self._attention: dict[int, NativeKernels] = {}
        self._scale: dict[int, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        self._scores = np.empty(0, np.float32)
        self._gate_args = np.zeros(len(GateArg), np.int64)
        self._norm_args = np.zeros(len(NormArg), np.int64)
        self._rotary_args = np.zeros(len(RotaryArg), np.int64)
        self._factors: dict[tuple[int, float], np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
        self._checked: tuple[RotaryTable, Tensor] | None = None
        self._attention_args = np.zeros(len(AttentionArg), np.int64)

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        fits = _plain(x, x.shape[-1]) and _vector(weight) and _vector(bias)
        return self._norm("layer_norm", x, weight, bias, eps) if fits else super().layer_norm(x, weight, bias, eps)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        fits = _plain(x, x.shape[-1]) and _vector(weight)
        return self._norm("rms_norm", x, weight, weight, eps) if fits else super().rms_norm(x, weight, eps)

    def rotate_halves(self, x: Tensor, table: RotaryTable, positions: Tensor) -> None:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        if not self._rotate("rotate_halves", x, table, positions):
            super().rotate_halves(x, table, positions)

    def rotate_pairs(self, x: Tensor, table: RotaryTable, positions: Tensor) -> None:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        if not self._rotate("rotate_pairs", x, table, positions):
            super().rotate_pairs(x, table, positions)

    def gelu(self, x: Tensor) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        return self._gate("gelu", x, x.shape[-1]) if _plain(x, x.shape[-1]) else super().gelu(x)

    def swiglu(self, x: Tensor) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        units = x.shape[-1] // 2
        return self._gate("swiglu", x, units) if _plain(x, units) else super().swiglu(x)

    def attention(self, q: Tensor, keys: Tensor, values: Tensor, visible: Sequence[int]) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        rows, heads, dim = q.shape
        fits = dim % LANES == 0 and q.dtype is torch.float32 and q.stride(2) == 1 and min(visible) > 0
        if not (fits and _half_tokens(keys, dim) and _half_tokens(values, dim)):
            return super().attention(q, keys, values, visible)
        result = torch.empty(rows, heads * dim)
        counts = np.fromiter(visible, np.int64, rows)
        native = self._native(dim)
        with self._team.lock:
            args = self._attention_args
            args[AttentionArg.Q], args[AttentionArg.OUT] = q.data_ptr(), result.data_ptr()
            args[AttentionArg.Q_ROW], args[AttentionArg.Q_HEAD] = q.stride(0) * 4, q.stride(1) * 4
            args[AttentionArg.KEYS], args[AttentionArg.KEYS_HEAD] = keys.data_ptr(), keys.stride(0) * 2
            args[AttentionArg.VALUES], args[AttentionArg.VALUES_HEAD] = values.data_ptr(), values.stride(0) * 2
            args[AttentionArg.OUT_ROW] = heads * dim * 4
            args[AttentionArg.VISIBLE], args[AttentionArg.SCALE] = counts.ctypes.data, self._scale[dim].ctypes.data
            args[AttentionArg.HEADS], args[AttentionArg.GROUP] = heads, heads // keys.shape[0]
            self._attend(native, rows, heads, int(counts.max()), dim)
        return result

    def _attend(self, native: NativeKernels, rows: int, heads: int, longest: int, dim: int) -> None:
        """Rows in fours, then what is left one by one."""
        team, args = self._team, self._attention_args
        stride = (longest + LANES) // LANES * LANES
        need = team.threads * ATTENTION_ROWS * stride
        if self._scores.size < need:
            self._scores = np.empty(need * 2, np.float32)
        args[AttentionArg.SCORES_ROW] = stride * 4
        fours = rows // ATTENTION_ROWS
        for count, first, blocks in ((ATTENTION_ROWS, 0, fours), (1, fours * ATTENTION_ROWS, rows % ATTENTION_ROWS)):
            if blocks:
                args[AttentionArg.ROW0] = first
                address = native.addresses[f"attend_{count}"]
                scratch = self._scores.ctypes.data
                stride_bytes = ATTENTION_ROWS * stride * 4
                work = blocks * count * heads * longest * dim
                team.share(
                    address, args.ctypes.data, blocks * heads, work=work, scratch=scratch, scratch_stride=stride_bytes
                )

    def _native(self, dim: int) -> NativeKernels:
        """The kernels for heads of ``dim`` features, compiled at first use."""
        if dim not in self._attention:
            self._attention[dim] = compile_module(
                self._variant, lambda triple: build_attention(self._variant, triple, dim)
            )
            self._scale[dim] = np.array([dim**-0.5], np.float32)
        return self._attention[dim]

    def _norm(self, name: str, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        rows, units = x.shape
        result = torch.empty(rows, units)
        factors = self._factors.get((units, eps))
        if factors is None:
            factors = self._factors[units, eps] = np.array([1.0 / units, eps], np.float32)
        with self._team.lock:
            self._norm_args[:] = (
                x.data_ptr(), x.stride(0) * 4, result.data_ptr(), units * 4, units,
                weight.data_ptr(), bias.data_ptr(), factors.ctypes.data,
            )  # fmt: skip
            self._team.share(self._rows.addresses[name], self._norm_args.ctypes.data, rows, work=rows * units // 2)
        return result

    def _rotate(self, name: str, x: Tensor, table: RotaryTable, positions: Tensor) -> bool:
        """Rotate ``x`` unless its shape or type is not for the compiled code."""
        rows, heads, dim = x.shape[0], x.shape[1], x.shape[-1]
        count = table.cos.shape[1]
        fits = x.dtype is torch.float32 and x.stride(-1) == 1 and count % ROW_LANES == 0 and 2 * count == dim
        if not (fits and rows and 3 <= x.dim() <= 4 and self._known(table, positions)):
            return False
        parts, part_stride = (x.shape[2], x.stride(2) * 4) if x.dim() == 4 else (1, 0)
        with self._team.lock:
            self._rotary_args[:] = (
                x.data_ptr(), x.stride(0) * 4, x.stride(1) * 4, part_stride, heads, parts,
                table.cos.data_ptr(), table.sin.data_ptr(), count * 4, positions.data_ptr(), count,
            )  # fmt: skip
            address = self._rows.addresses[name]
            self._team.share(address, self._rotary_args.ctypes.data, rows, work=rows * heads * parts * dim // 2)
        return True

    def _known(self, table: RotaryTable, positions: Tensor) -> bool:
        """Whether every position is in the table; all layers of a step ask about the same ones."""
        if self._checked is None or self._checked[0] is not table or self._checked[1] is not positions:
            plain = all(t.is_contiguous() and t.dtype is torch.float32 for t in (table.cos, table.sin))
            if not plain or positions.dtype is not torch.int64 or not positions.is_contiguous():
                return False
            if int(positions.min()) < 0 or int(positions.max()) >= len(table.cos):
                return False
            self._checked = (table, positions)
        return True

    def _gate(self, name: str, x: Tensor, units: int) -> Tensor:
        rows = x.shape[0]
        result = torch.empty(rows, units)
        with self._team.lock:
            args = self._gate_args
            args[GateArg.X], args[GateArg.X_ROW] = x.data_ptr(), x.stride(0) * 4
            args[GateArg.OUT], args[GateArg.OUT_ROW], args[GateArg.UNITS] = result.data_ptr(), units * 4, units
            self._team.share(self._gates.addresses[name], args.ctypes.data, rows, work=rows * units * 4)
        return result


def _plain(x: Tensor, units: int) -> bool:
    return x.dim() == 2 and x.dtype is torch.float32 and x.stride(1) == 1 and units % LANES == 0 and x.shape[0] > 0


def _vector(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.is_contiguous()


def _half_tokens(x: Tensor, dim: int) -> bool:
    """Whether ``x`` [kv_heads, tokens, dim] is fp16 with each token right after the one before."""
    return x.dtype is torch.float16 and x.stride(2) == 1 and x.stride(1) == dim
