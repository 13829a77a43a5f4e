"""Reading a prompt into a cache, one unit of work at a time, in one of two orders.

A unit is at most one layer × ``max_rows`` rows. Knows caches and plans; a family's layers know the arithmetic.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.network import Network, Projected
from chatglm_backend.models.positions import PositionPlan
from chatglm_backend.models.rows import rows_of


class Prefill(ABC):
    """A prompt on its way into a cache. ``done`` counts prompt tokens' worth of work, growing to ``total``.

    The cache's length changes only when the last unit is done, so a prefill can simply be dropped; the cache is then
    as before, and all memory is free at once.
    """

    units_per_slice: int

    def __init__(
        self,
        network: Network,
        ids: tuple[int, ...],
        cache: KVCache,
        plan: PositionPlan,
        *,
        slices: Sequence[tuple[int, int]],
        visible: Sequence[int],
        logit_rows: int,
    ) -> None:
        """``slices`` of rows are the units' sizes; row i of the prompt sees the cache's first ``visible[i]`` rows."""
        self.total = len(ids)
        self._network = network
        self._ids = ids
        self._cache = cache
        self._plan = plan
        self._start = cache.length
        self._slices = slices
        self._rows = {low: rows_of([(cache, plan, self._start + low, self._start + high)]) for low, high in slices}
        self._visible = visible
        self._first_logit_row = self.total - logit_rows
        self._units_per_layer = self.units_per_slice * len(slices)
        self._units_done = 0
        self._hidden = torch.empty(0)
        self._queries = torch.empty(0)
        self._logits: Tensor | None = None

    @property
    def done(self) -> int:
        """Prompt tokens' worth of work done, growing to ``total``."""
        units = self._units_per_layer * len(self._network.layers)
        return self.total if self._logits is not None else self._units_done * self.total // (units + 1)

    @property
    def logits(self) -> Tensor:
        """fp32 [logit_rows, vocab] of the last rows. Raises ValueError before the end."""
        if self._logits is None:
            raise ValueError("the prompt is not read to its end")
        return self._logits

    @torch.no_grad()
    def advance(self) -> bool:
        """Do one unit; True when the prompt is read to its end."""
        if self._logits is not None:
            return True
        if self._units_done == 0:
            self._hidden = self._network.embed(self._ids, self._rows[0].groups)
        layer, unit = divmod(self._units_done, self._units_per_layer)
        self._do(layer, unit)
        self._units_done += 1
        if self._units_done == self._units_per_layer * len(self._network.layers):
            self._logits = self._network.logits(self._hidden[self._first_logit_row :], self._rows[0]).clone()
            self._hidden = self._queries = torch.empty(0)
            self._cache.length = self._start + self.total
            self._cache.plan = self._plan
        return self._logits is not None

    @abstractmethod
    def _do(self, layer: int, unit: int) -> None:
        """The ``unit``-th unit of a layer."""

    def _project(self, layer: int, low: int, high: int) -> Projected:
        """The first half of a layer for rows ``low`` to ``high``; their keys and values go into the cache."""
        projected = self._network.layers[layer].project(self._hidden[low:high], self._rows[low])
        room = self._cache.room(layer, self._start + low, self._start + high)
        self._network.ops.store(projected.k, projected.v, *room)
        return projected

    def _finish(self, layer: int, low: int, high: int, residual: Tensor, q: Tensor) -> None:
        """Attention and the second half of a layer for the same rows, those of them that matter."""
        # Behind the last layer only the rows for the output layer are of use.
        last = layer == len(self._network.layers) - 1
        first = max(low, self._first_logit_row) if last else low
        if first < high:
            visible = self._visible[first:high]
            keys, values = self._cache.read(layer, max(visible) - self._cache.lead)
            attended = self._network.ops.attention(q[first - low :], keys, values, visible)
            rows = self._rows[low]
            self._hidden[first:high] = self._network.layers[layer].finish(residual[first - low :], attended, rows)


class CausalPrefill(Prefill):
    """Layer by layer along the slices: a row needs the keys and values of earlier slices and its own only."""

    units_per_slice = 1

    def _do(self, layer: int, unit: int) -> None:
        low, high = self._slices[unit]
        projected = self._project(layer, low, high)
        self._finish(layer, low, high, projected.residual, projected.q)


class PrefixLMPrefill(Prefill):
    """A layer's keys and values of all slices first, then the rest of it: rows see later slices."""

    units_per_slice = 2

    def _do(self, layer: int, unit: int) -> None:
        if unit < len(self._slices):
            low, high = self._slices[unit]
            projected = self._project(layer, low, high)
            if unit == 0:
                self._queries = torch.empty(self.total, *projected.q.shape[1:])
            self._queries[low:high] = projected.q
            self._hidden[low:high] = projected.residual
        else:
            low, high = self._slices[unit - len(self._slices)]
            self._finish(layer, low, high, self._hidden[low:high], self._queries[low:high])


def prefill_of(
    network: Network, ids: Sequence[int], cache: KVCache, plan: PositionPlan, *, max_rows: int, logit_rows: int
) -> Prefill:
    """The order that ``plan`` needs: causal unless some row of the prompt sees behind its own slice of rows."""
    start, total = cache.length, len(ids)
    slices = [(low, min(low + max_rows, total)) for low in range(0, total, max_rows)]
    visible = [cache.lead + plan.visible(start + row) for row in range(total)]
    ahead = any(max(visible[low:high]) > cache.lead + start + high for low, high in slices)
    order = PrefixLMPrefill if ahead else CausalPrefill
    return order(network, tuple(ids), cache, plan, slices=slices, visible=visible, logit_rows=logit_rows)
