"""The side path of low-rank adapters, compiled: two steps of the team, which recordings can hold."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chatglm_backend.int4.kernels.emit_low_rank import COLUMNS, ROW_BLOCK, LowRankArg, build_low_rank, down_ranks
from chatglm_backend.int4.kernels.native import NativeKernels, compile_module
from chatglm_backend.int4.kernels.team import Team
from chatglm_backend.int4.kernels.variants import Variant
from chatglm_backend.models.low_rank import LowRank

_WEIGHTS_PER_NUMBER = 4
"""How many INT4 weights are read in the time that one fp16 number of a factor takes."""


class LowRankSteps:
    """Compiled for ``variant`` at first use."""

    def __init__(self, team: Team, variant: Variant, cache: Path | None = None) -> None:
        """``cache`` is a folder to keep compiled code in."""
        self._team, self._variant, self._cache = team, variant, cache
        self._native: NativeKernels | None = None
        self._args = np.zeros(len(LowRankArg), np.int64)
        self._scales: dict[float, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}

    def takes(self, result: Tensor, x: Tensor, factors: LowRank) -> bool:
        """Whether the compiled code is for such shapes and types."""
        plain = all(t.dtype is torch.float32 and t.dim() == 2 and t.stride(1) == 1 for t in (result, x))
        halves = factors.down.dtype is torch.float16 and factors.up.dtype is torch.float16
        return plain and halves and x.shape[1] % COLUMNS == 0 and factors.out % COLUMNS == 0 and len(x) > 0

    def add(self, result: Tensor, x: Tensor, factors: LowRank) -> None:
        """``result`` [rows, out] += the side path of ``x`` [rows, in]."""
        team, rank, rows, inputs = self._team, len(factors.down), len(x), x.shape[1]
        if self._native is None:
            build = partial(build_low_rank, self._variant)
            self._native = compile_module(self._variant, "low_rank", build, self._cache)
        at = self._native.addresses
        scale = self._scales.setdefault(factors.scale, np.array([factors.scale], np.float32))
        team.keep(factors)
        with team.lock:
            between = team.empty(rows, rank)
            blocks = rows // ROW_BLOCK
            parts = ((ROW_BLOCK, 0, blocks), (1, blocks * ROW_BLOCK, rows % ROW_BLOCK))
            for count, first, several in parts:
                self._args[:] = (
                    x.data_ptr(), x.stride(0) * 4, factors.down.data_ptr(), between.data_ptr(), factors.up.data_ptr(),
                    result.data_ptr(), result.stride(0) * 4, inputs, rank, first, several, scale.ctypes.data,
                )  # fmt: skip
                if several:
                    work = several * count * rank * _WEIGHTS_PER_NUMBER
                    items = several * rank // down_ranks(self._variant)
                    team.share(at[f"down_{count}"], self._args, items, work=work * inputs)
                    team.share(at[f"up_{count}"], self._args, factors.out // COLUMNS, work=work * factors.out)
