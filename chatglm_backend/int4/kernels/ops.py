"""The models' operations between products, compiled: attention over a cache of fp16 or int8 and writing to it, rotary
positions, norms, residuals, GELU, SwiGLU.

Whatever shape or dtype the compiled code does not take is left to
:class:`~chatglm_backend.models.ops.Ops`. Shares its threads with the products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chatglm_backend.int4.kernels.driver import Word
from chatglm_backend.int4.kernels.emit_attention import LANES, AttentionArg, query_counts, scratch_bytes, takes
from chatglm_backend.int4.kernels.emit_attention_formats import build_attention
from chatglm_backend.int4.kernels.emit_gates import GateArg, build_gates
from chatglm_backend.int4.kernels.emit_rows import ROW_LANES, AddArg, NormArg, RotaryArg, StoreArg, build_rows
from chatglm_backend.int4.kernels.native import NativeKernels, compile_module
from chatglm_backend.int4.kernels.places import PlaceWords, cache_words
from chatglm_backend.int4.kernels.replay import RecordedStep, attention_work, queries_for
from chatglm_backend.int4.kernels.team import Pool, Team, Words
from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.models.int8_rows import row_width
from chatglm_backend.models.ops import Ops, Place, Replay, RotaryTable

Floats = np.ndarray[Any, np.dtype[np.float32]]


class CompiledOps(Ops):
    """:class:`~chatglm_backend.models.ops.Ops` compiled for ``variant``."""

    name = "compiled"

    def __init__(self, team: Team, variant: Variant, cache: Path | None = None) -> None:
        """``cache`` is a folder to keep compiled code in."""
        self._team, self._variant, self._cache = team, variant, cache
        self._gates = compile_module(variant, "gates", partial(build_gates, variant), cache)
        self._rows = compile_module(variant, "rows", partial(build_rows, variant), cache)
        self._attention: dict[tuple[int, torch.dtype], NativeKernels] = {}
        self._scratch: dict[int, np.ndarray[Any, np.dtype[np.float32]]] = {}
        self._gate_args = np.zeros(len(GateArg), np.int64)
        self._norm_args = np.zeros(len(NormArg), np.int64)
        self._rotary_args = np.zeros(len(RotaryArg), np.int64)
        self._factors: dict[tuple[float, ...], Floats] = {}
        self._checked: tuple[RotaryTable, Tensor] | None = None
        self._attention_args = np.zeros(len(AttentionArg), np.int64)
        self._add_args = np.zeros(len(AddArg), np.int64)
        self._store_args = np.zeros(len(StoreArg), np.int64)
        self._recorded: PlaceWords | None = None
        self._pool: Pool = {}

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        if _plain(x, x.shape[-1]) and _vector(weight) and _vector(bias):
            return self._norm("layer_norm", x, weight, bias, eps)
        self._team.spoil()
        return super().layer_norm(x, weight, bias, eps)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        if _plain(x, x.shape[-1]) and _vector(weight):
            return self._norm("rms_norm", x, weight, weight, eps)
        self._team.spoil()
        return super().rms_norm(x, weight, eps)

    def rotate_halves(self, x: Tensor, table: RotaryTable, positions: Tensor) -> None:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        if not self._rotate("rotate_halves", x, table, positions):
            self._team.spoil()
            super().rotate_halves(x, table, positions)

    def rotate_pairs(self, x: Tensor, table: RotaryTable, positions: Tensor) -> None:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        if not self._rotate("rotate_pairs", x, table, positions):
            self._team.spoil()
            super().rotate_pairs(x, table, positions)

    def gelu(self, x: Tensor) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        if _plain(x, x.shape[-1]):
            return self._gate("gelu", x, x.shape[-1])
        self._team.spoil()
        return super().gelu(x)

    def swiglu(self, x: Tensor) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        units = x.shape[-1] // 2
        if _plain(x, units):
            return self._gate("swiglu", x, units)
        self._team.spoil()
        return super().swiglu(x)

    def add_scaled(self, base: Tensor, factor: float, update: Tensor) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        rows, units = base.shape
        if not (_plain(base, units) and _plain(update, units)):
            self._team.spoil()
            return super().add_scaled(base, factor, update)
        result = self._team.empty(rows, units)
        with self._team.lock:
            self._add_args[:] = (
                base.data_ptr(), base.stride(0) * 4, update.data_ptr(), update.stride(0) * 4,
                result.data_ptr(), units * 4, units, self._constants(factor).ctypes.data,
            )  # fmt: skip
            self._team.share(self._rows.addresses["add_scaled"], self._add_args, rows, work=rows * units // 2)
        return result

    def add_vector(self, result: Tensor, vector: Tensor) -> None:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        rows, units = result.shape
        if not (_plain(result, units) and _vector(vector)):
            self._team.spoil()
            super().add_vector(result, vector)
            return
        self._team.keep(vector)
        with self._team.lock:
            self._add_args[:] = (
                vector.data_ptr(), 0, result.data_ptr(), result.stride(0) * 4,
                result.data_ptr(), result.stride(0) * 4, units, self._constants(1.0).ctypes.data,
            )  # fmt: skip
            self._team.share(self._rows.addresses["add_scaled"], self._add_args, rows, work=rows * units // 2)

    def store(self, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> None:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        rows, _, dim = k.shape
        fits = all(x.dtype is torch.float32 and x.stride(2) == 1 for x in (k, v)) and dim % ROW_LANES == 0
        if not (fits and rows and _known_format(keys, values, dim)):
            self._team.spoil()
            super().store(k, v, keys, values)
            return
        caches, tokens = np.array(cache_words(keys, values), np.int64), np.arange(rows, dtype=np.int64)
        self._store(k, v, keys.dtype, caches, 0, tokens)

    def _store(self, k: Tensor, v: Tensor, dtype: torch.dtype, caches: Words, caches_row: int, tokens: Words) -> None:
        rows, heads, dim = k.shape
        kernels = self._storing(self._native(dim, dtype))
        with self._team.lock:
            self._store_args[:] = (
                k.data_ptr(), k.stride(0) * 4, k.stride(1) * 4, v.data_ptr(), v.stride(0) * 4, v.stride(1) * 4,
                caches.ctypes.data, caches_row, heads, dim, tokens.ctypes.data,
            )  # fmt: skip
            self._team.share(kernels.addresses["store"], self._store_args, rows, work=rows * heads * dim)

    def record(self, forward: Callable[[], Tensor], places: Sequence[Place]) -> tuple[Tensor, Replay | None]:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        words = PlaceWords(places)
        with self._team.recording(self._pool) as recording:
            self._recorded = words
            try:
                result = forward()
            finally:
                self._recorded = None
        kernels = [step[Word.KERNEL] for step in recording.steps]
        # A product by other means than this team's is no step, and a recording without it would be wrong.
        products = sum(step[Word.QUANTIZE] != 0 for step in recording.steps)
        for (dim, dtype), native in self._attention.items():
            attends = {count: native.addresses[f"attend_{count}"] for count in query_counts(self._variant)}
            layers = kernels.count(self._storing(native).addresses["store"])
            if recording.whole and dtype is words.dtype and 0 < layers == len(words.caches) < products:
                return result, RecordedStep(self._team, recording, result, words, attends, dim)
        return result, None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, places: Sequence[Place]) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        dim = q.shape[2]
        keys, _ = places[0].layers[layer]
        strided = all(x.dtype is torch.float32 and x.stride(2) == 1 for x in (q, k, v)) and dim % ROW_LANES == 0
        formats = {id(place.identity): place.layers[layer] for place in places}.values()
        fits = strided and takes(dim, int8=keys.dtype is torch.int8) and min(place.visible for place in places) > 0
        if not (fits and all(_known_format(*pair, dim) and pair[0].dtype is keys.dtype for pair in formats)):
            self._team.spoil()
            return super().attend(layer, q, k, v, places)
        words = self._recorded or PlaceWords([replace(x, layers=x.layers[layer : layer + 1]) for x in places])
        caches = words.caches[layer if self._recorded else 0]
        self._store(k, v, keys.dtype, caches, caches.strides[0], words.tokens)
        apart = caches.strides[0] if len(formats) > 1 else 0
        return self._attention_of(q, keys.dtype, caches, apart, keys.shape[0], words.visible)

    def attention(self, q: Tensor, keys: Tensor, values: Tensor, visible: Sequence[int]) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Ops`."""
        rows, _, dim = q.shape
        fits = takes(dim, int8=keys.dtype is torch.int8) and q.dtype is torch.float32 and q.stride(2) == 1
        if not (fits and min(visible) > 0 and _known_format(keys, values, dim)):
            self._team.spoil()
            return super().attention(q, keys, values, visible)
        caches = np.array(cache_words(keys, values), np.int64)
        return self._attention_of(q, keys.dtype, caches, 0, keys.shape[0], np.fromiter(visible, np.int64, rows))

    def _attention_of(
        self, q: Tensor, dtype: torch.dtype, caches: Words, caches_row: int, kv_heads: int, visible: Words
    ) -> Tensor:
        """``caches_row`` is 0 where all rows see the same cache."""
        rows, heads, dim = q.shape
        result = self._team.empty(rows, heads * dim)
        native, group, widths = self._native(dim, dtype), heads // kv_heads, query_counts(self._variant)
        with self._team.lock:
            args = self._attention_args
            args[:] = (
                q.data_ptr(), q.stride(0) * 4, q.stride(1) * 4, q.stride(1) * 4, caches.ctypes.data, caches_row,
                result.data_ptr(), heads * dim * 4, dim * 4, visible.ctypes.data, 8, 0, heads, group, 1,
                self._constants(dim**-0.5).ctypes.data,
            )  # fmt: skip
            longest = int(visible.max())
            if rows == 1 or caches_row or group % widths[-2] == 0:
                width = queries_for(heads * rows, group, self._team.threads, longest, widths)
                args[AttentionArg.STEP] = width
                self._attend(native, width, rows * heads // width, longest, dim)
            else:
                self._attend_rows(native, rows, longest, dim)
        return result

    def _attend_rows(self, native: NativeKernels, rows: int, longest: int, dim: int) -> None:
        """Rows of each head together, as many at once as there are."""
        args = self._attention_args
        start = args.copy()
        starts = (AttentionArg.Q, AttentionArg.OUT, AttentionArg.VISIBLE)
        steps = start[[AttentionArg.Q_OUTER, AttentionArg.OUT_OUTER, AttentionArg.VISIBLE_OUTER]]
        first = 0
        for width in query_counts(self._variant):
            blocks = (rows - first) // width
            if blocks:
                args[list(starts)] = start[list(starts)] + first * steps
                args[[AttentionArg.Q_EACH, AttentionArg.OUT_EACH, AttentionArg.VISIBLE_EACH]] = steps
                args[[AttentionArg.Q_OUTER, AttentionArg.OUT_OUTER, AttentionArg.VISIBLE_OUTER]] = steps * width
                self._attend(native, width, blocks * int(args[AttentionArg.HEADS]), longest, dim)
            first += blocks * width

    def _attend(self, native: NativeKernels, width: int, items: int, longest: int, dim: int) -> None:
        """``items`` times ``width`` queries."""
        each = -(-scratch_bytes(dim) // 64) * 64
        if dim not in self._scratch:
            self._scratch[dim] = np.empty(self._team.threads * each // 4 + 16, np.float32)
        scratch = self._scratch[dim].ctypes.data
        self._team.share(
            native.addresses[f"attend_{width}"], self._attention_args, items,
            work=items * width * attention_work(longest, dim), scratch=-(-scratch // 64) * 64, scratch_stride=each,
        )  # fmt: skip
        self._team.keep(self._scratch[dim])

    def _storing(self, native: NativeKernels) -> NativeKernels:
        """Where the kernel is that writes the same cache."""
        return native if "store" in native.addresses else self._rows

    def _native(self, dim: int, dtype: torch.dtype) -> NativeKernels:
        """The kernels for heads of ``dim`` features in a cache of ``dtype``, compiled at first use."""
        if (dim, dtype) not in self._attention:
            build = partial(build_attention, self._variant, dim=dim, int8=dtype is torch.int8)
            name = f"attention{dim}{'int8' if dtype is torch.int8 else ''}"
            self._attention[dim, dtype] = compile_module(self._variant, name, build, self._cache)
        return self._attention[dim, dtype]

    def _norm(self, name: str, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        rows, units = x.shape
        result = self._team.empty(rows, units)
        factors = self._constants(1.0 / units, eps)
        with self._team.lock:
            self._norm_args[:] = (
                x.data_ptr(), x.stride(0) * 4, result.data_ptr(), units * 4, units,
                weight.data_ptr(), bias.data_ptr(), factors.ctypes.data,
            )  # fmt: skip
            self._team.share(self._rows.addresses[name], self._norm_args, rows, work=rows * units // 2)
        return result

    def _constants(self, *values: float) -> Floats:
        """The numbers in memory, always at the same place."""
        found = self._factors.get(values)
        if found is None:
            found = self._factors[values] = np.array(values, np.float32)
        return found

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
            self._team.share(address, self._rotary_args, rows, work=rows * heads * parts * dim // 2)
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
        result = self._team.empty(rows, units)
        with self._team.lock:
            self._gate_args[:] = x.data_ptr(), x.stride(0) * 4, result.data_ptr(), units * 4, units
            self._team.share(self._gates.addresses[name], self._gate_args, rows, work=rows * units * 4)
        return result


def _plain(x: Tensor, units: int) -> bool:
    return x.dim() == 2 and x.dtype is torch.float32 and x.stride(1) == 1 and units % LANES == 0 and x.shape[0] > 0


def _vector(x: Tensor) -> bool:
    return x.dtype is torch.float32 and x.is_contiguous()


def _known_format(keys: Tensor, values: Tensor, dim: int) -> bool:
    """Whether a cache's keys and values are fp16 or int8 with each token right after the one before."""
    width = row_width(dim, keys.dtype)
    right = (keys.dtype, 1, width, width)
    fits = all((x.dtype, x.stride(2), x.stride(1), x.shape[2]) == right for x in (keys, values))
    return fits and keys.dtype in (torch.float16, torch.int8)
