"""Where the rows of a decode step belong, as compiled code reads it. Knows addresses; no layers' meaning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from chatglm_backend.int4.kernels.emit_rows import CacheWord
from chatglm_backend.int4.kernels.team import Words
from chatglm_backend.models.ops import Place


def cache_words(keys: Tensor, values: Tensor) -> tuple[int, ...]:
    """See :class:`CacheWord`."""
    size = keys.itemsize
    return keys.data_ptr(), keys.stride(0) * size, values.data_ptr(), values.stride(0) * size


class PlaceWords:
    """``caches`` [layers, rows, words] of :class:`CacheWord`, ``tokens`` and ``visible`` [rows]: never moved."""

    def __init__(self, places: Sequence[Place]) -> None:
        layers, rows = places[0].layers, len(places)
        self.dtype = layers[0][0].dtype
        self.caches: Words = np.zeros((len(layers), rows, len(CacheWord)), np.int64)
        self.tokens: Words = np.zeros(rows, np.int64)
        self.visible: Words = np.zeros(rows, np.int64)
        self._identities: list[object] = [None] * rows
        self.turn_to(places)

    def turn_to(self, places: Sequence[Place]) -> None:
        """As many other places. Raises ValueError for another kind of cache."""
        known: dict[int, Words] = {}
        for row, place in enumerate(places):
            self.tokens[row], self.visible[row] = place.token, place.visible
            if place.identity is not self._identities[row]:
                if id(place.identity) not in known:
                    known[id(place.identity)] = self._words(place.layers)
                self.caches[:, row] = known[id(place.identity)]
                self._identities[row] = place.identity

    def _words(self, layers: Sequence[tuple[Tensor, Tensor]]) -> Words:
        if len(layers) != len(self.caches) or any(x.dtype is not self.dtype for pair in layers for x in pair):
            raise ValueError("this cache is not of the kind that was recorded")
        return np.array([cache_words(*pair) for pair in layers], np.int64)
