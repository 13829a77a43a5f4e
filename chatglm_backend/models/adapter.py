"""A fine-tune as the models take it: side paths by the products' names, and rows in front of every cache.

Knows shapes; nothing of files, formats or who asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from chatglm_backend.models.low_rank import LowRank
from chatglm_backend.models.weights import Embedding, Linear


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """P-Tuning's rows: ``keys`` and ``values`` [kv_heads, rows, width] of every layer, as the cache holds them.

    They are the first entries of each layer's cache, as they are: not rotated, not scaled, at no position.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def rows(self) -> int:
        """How many rows stand in front."""
        return self.keys[0].shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return sum(t.nbytes for t in (*self.keys, *self.values))


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """What an adapter adds to one product: a low-rank side path, and fp32 [out] by which its bias is another."""

    low_rank: LowRank | None = None
    bias: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all of it."""
        return (self.low_rank.nbytes if self.low_rank else 0) + (self.bias.nbytes if self.bias is not None else 0)


@dataclass(frozen=True, eq=False)  # no slots: recordings refer to it weakly
class Adapter:
    """``identity`` is a hash of what it holds: what one adapter computed is of no use to another.

    ``deltas`` by the product's name without ``.weight``; ``embedding`` and ``output`` replace the base's, and take
    ``replaced_nbytes``.
    """

    name: str
    identity: str
    deltas: Mapping[str, Delta] = field(default_factory=dict)
    prefix: Prefix | None = None
    embedding: Embedding | None = None
    output: Linear | None = None
    replaced_nbytes: int = 0

    @property
    def size(self) -> int:
        """The largest rank, or the rows of a prefix."""
        ranks = [delta.low_rank.rank for delta in self.deltas.values() if delta.low_rank is not None]
        return self.prefix.rows if self.prefix is not None else max(ranks, default=0)

    @property
    def computes(self) -> bool:
        """Whether its steps differ from the base's, not only what its caches begin with."""
        return bool(self.deltas) or self.embedding is not None or self.output is not None

    @property
    def nbytes(self) -> int:
        """Bytes that it takes beside the base."""
        prefix = self.prefix.nbytes if self.prefix else 0
        return sum(delta.nbytes for delta in self.deltas.values()) + prefix + self.replaced_nbytes
