"""A recorded decode step of one row, replayed for other tokens in a single call.

One call instead of some 370: no Python between the steps, and the interpreter is free for other
threads all the while. Knows which words of the steps depend on the token and on the cache; knows no layers' meaning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from chatglm_backend.int4.kernels.driver import Word
from chatglm_backend.int4.kernels.emit_attention import AttentionArg
from chatglm_backend.int4.kernels.emit_rows import StoreArg
from chatglm_backend.int4.kernels.team import Recording, Team

_WORTH_SHARING = 768
_WEIGHTS_PER_FEATURE = 4
"""How many INT4 weights are multiplied in the time that one feature of a key and a value takes."""


def attention_work(tokens: int, dim: int) -> int:
    """One head's attention over ``tokens`` tokens of ``dim`` features, in weights of a product."""
    return _WEIGHTS_PER_FEATURE * tokens * dim


def queries_for(heads: int, group: int, threads: int, tokens: int, counts: Sequence[int]) -> int:
    """How many heads of a group of so many are attended together, so that all threads have work.

    Behind few tokens keys and values lie in a core's cache, and smaller pieces are shared out better.
    """
    fitting = [count for count in counts if group % count == 0]
    if tokens < _WORTH_SHARING:
        fitting = fitting[-2:]
    return next((count for count in fitting if heads // count >= threads), fitting[-1])


class RecordedStep:
    """See :class:`~chatglm_backend.models.ops.Replay`."""

    def __init__(
        self,
        team: Team,
        recording: Recording,
        result: Tensor,
        *,
        attends: Mapping[int, int],
        store: int,
        dtype: torch.dtype,
    ) -> None:
        """``attends``, by their numbers of queries, and ``store`` touch the cache, of ``dtype``: each once a layer."""
        self._team, self._result = team, result
        self._kept = recording
        self._program = np.array(recording.steps, np.int64)
        kernels = self._program[:, Word.KERNEL]
        self._attend = dict(attends)
        self._attends = np.flatnonzero(np.isin(kernels, list(attends.values())))
        self._attention_args = [recording.args[step] for step in self._attends]
        self._store_args = [recording.args[step] for step in np.flatnonzero(kernels == store)]
        self._start, self._visible = np.zeros(1, np.int64), np.zeros(1, np.int64)
        for args in self._attention_args:
            args[AttentionArg.VISIBLE] = self._visible.ctypes.data
        for args in self._store_args:
            args[StoreArg.FIRST] = self._start.ctypes.data
        self._heads = int(self._attention_args[0][AttentionArg.HEADS])
        self._group = int(self._attention_args[0][AttentionArg.GROUP])
        self._dim = int(self._store_args[0][StoreArg.UNITS])
        self._dtype = dtype
        self._identity: object = None

    def __call__(self, layers: Sequence[tuple[Tensor, Tensor]], identity: object, start: int, visible: int) -> Tensor:
        """See :class:`~chatglm_backend.models.ops.Replay`. Raises ValueError for another kind of cache."""
        team = self._team
        with team.lock:
            if identity is not self._identity:
                self._bind(layers)
                self._identity = identity
            self._start[0], self._visible[0] = start, visible
            together = queries_for(self._heads, self._group, team.threads, visible, tuple(self._attend))
            for args in self._attention_args:
                args[AttentionArg.STEP] = together
            items = self._heads // together
            parts = team.parts_for(self._heads * attention_work(visible, self._dim), items)
            self._program[self._attends, Word.KERNEL] = self._attend[together]
            self._program[self._attends, Word.ITEMS] = items
            self._program[self._attends, Word.PARTS] = parts
            self._program[self._attends, Word.PIECES] = team.pieces(parts, items)
            team.play(self._program)
        return self._result

    def _bind(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Turn to the memory of another sequence."""
        if len(layers) != len(self._store_args) or any(x.dtype is not self._dtype for pair in layers for x in pair):
            raise ValueError("this cache is not of the kind that was recorded")
        size = self._dtype.itemsize
        for attention, store, (keys, values) in zip(self._attention_args, self._store_args, layers, strict=True):
            attention[AttentionArg.KEYS] = store[StoreArg.KEYS] = keys.data_ptr()
            attention[AttentionArg.VALUES] = store[StoreArg.VALUES] = values.data_ptr()
            attention[AttentionArg.KEYS_HEAD] = store[StoreArg.KEYS_HEAD] = keys.stride(0) * size
            attention[AttentionArg.VALUES_HEAD] = store[StoreArg.VALUES_HEAD] = values.stride(0) * size
