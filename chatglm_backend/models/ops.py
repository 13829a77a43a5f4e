"""The arithmetic between the matrix products, behind one seam.

A faster set of the same operations can take its place without the models noticing. Knows shapes, not
families, caches or weights. Everything is fp32 but keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from chatglm_backend.models.int8_rows import from_rows, to_rows

_SCORE_FLOATS = 8 * 1024 * 1024
"""Most attention scores held at once (32 MiB): long contexts take fewer rows at a time."""


class RotaryTable:
    """Cosines and sines [positions, frequencies] in fp32, computed once per model."""

    def __init__(self, cos: Tensor, sin: Tensor) -> None:
        self.cos = cos
        self.sin = sin


def rotary_table(
    *, dim: int, positions: int, fp16_frequencies: bool, base: float = 10_000, divisor: float = 1
) -> RotaryTable:
    """Angles for ``dim`` rotated features: positions, divided by ``divisor``, times powers of ``base``.

    ``fp16_frequencies`` rounds the frequencies to fp16 first, as ChatGLM-6B was trained.
    """
    frequencies = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))
    if fp16_frequencies:
        frequencies = frequencies.half().float()
    angles = torch.outer(torch.arange(positions, dtype=torch.float32) / divisor, frequencies)
    return RotaryTable(angles.cos(), angles.sin())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row belongs: it becomes token ``token`` of a cache and sees the first ``visible``.

    ``layers`` are the whole keys and values [kv_heads, reserved, width] of each layer, ``identity`` an object that is
    another one whenever they are.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    identity: object
    token: int
    visible: int


class Replay(Protocol):
    """A recorded forward pass of some rows, ready to be done again for other tokens."""

    def __call__(self, places: Sequence[Place]) -> Tensor:
        """The logits, valid until the same operations record or replay again; other inputs are read where they were."""


class Ops:
    """What the models need besides matrix products, in eager torch; a compiled set is a subclass of it.

    Inputs may be strided views; results are contiguous.
    """

    name = "torch"

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """``x`` [rows, hidden] -> [rows, hidden]."""
        return functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """``x`` [rows, hidden] -> [rows, hidden]."""
        scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True).add_(eps))
        return (x * scale).mul_(weight)

    def add_scaled(self, base: Tensor, factor: float, update: Tensor) -> Tensor:
        """``factor * base + update``; may overwrite ``base``, never ``update``."""
        return torch.add(update, base, alpha=factor)

    def add_vector(self, result: Tensor, vector: Tensor) -> None:
        """Add ``vector`` [out] to every row of ``result`` [rows, out], both fp32, in place."""
        result.add_(vector)

    def gelu(self, x: Tensor) -> Tensor:
        """The tanh form; may overwrite ``x``."""
        return functional.gelu(x, approximate="tanh")

    def swiglu(self, x: Tensor) -> Tensor:
        """``x`` [rows, gate | up] -> silu(gate) * up, [rows, half]; may overwrite ``x``."""
        gate, up = x.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    def rotate_halves(self, x: Tensor, table: RotaryTable, positions: Tensor) -> None:
        """Rotate ``x`` [rows, heads, dim] or [rows, heads, parts, dim] in place, feature i with feature i + dim/2."""
        half = x.shape[-1] // 2
        _rotate(x[..., :half], x[..., half:], table, positions)

    def rotate_pairs(self, x: Tensor, table: RotaryTable, positions: Tensor) -> None:
        """As :meth:`rotate_halves`, but feature 2i with feature 2i + 1."""
        _rotate(x[..., 0::2], x[..., 1::2], table, positions)

    def attention(self, q: Tensor, keys: Tensor, values: Tensor, visible: Sequence[int]) -> Tensor:
        """Softmax attention, scaled by 1/sqrt(dim).

        ``q`` [rows, heads, dim]; ``keys`` and ``values`` [kv_heads, tokens, width] as the cache has them, each
        serving heads/kv_heads consecutive heads; row i sees the first ``visible[i]`` tokens.
        Returns [rows, heads * dim] fp32.
        """
        rows, heads, dim = q.shape
        result = torch.empty(rows, heads * dim, dtype=torch.float32)
        keys, values = from_rows(keys), from_rows(values)
        step = max(1, _SCORE_FLOATS // (heads * keys.shape[1]))
        for start in range(0, rows, step):
            end = min(start + step, rows)
            result[start:end] = _attend(q[start:end], keys, values, visible[start:end])
        return result

    def store(self, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> None:
        """Put ``k`` and ``v`` [rows, kv_heads, dim] into a cache's ``keys`` and ``values`` [kv_heads, rows, width]."""
        keys.copy_(to_rows(k.transpose(0, 1), keys.dtype))
        values.copy_(to_rows(v.transpose(0, 1), values.dtype))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, places: Sequence[Place]) -> Tensor:
        """Put each row's key and value into its cache, then :meth:`attention` of each row as if it were alone.

        Shapes as for :meth:`store` and :meth:`attention`. Rows of one sequence stand in the order of their tokens.
        """
        results = []
        for row, place in enumerate(places):
            here, after = slice(row, row + 1), place.token + 1
            keys, values = place.layers[layer]
            self.store(k[here], v[here], keys[:, place.token : after], values[:, place.token : after])
            results.append(self.attention(q[here], keys[:, :after], values[:, :after], (place.visible,)))
        return results[0] if len(results) == 1 else torch.cat(results)

    def record(self, forward: Callable[[], Tensor], places: Sequence[Place]) -> tuple[Tensor, Replay | None]:
        """Do a forward pass of rows at ``places``, and learn to replay it where everything in it can be replayed.

        ``forward`` uses only these operations, the products that go with them, and views; it attends at ``places``
        only; the tensors that it starts from must stay where they are.
        """
        del places
        return forward(), None


def _rotate(first: Tensor, second: Tensor, table: RotaryTable, positions: Tensor) -> None:
    shape = (len(positions), *[1] * (first.dim() - 2), first.shape[-1])
    cos, sin = table.cos[positions].view(shape), table.sin[positions].view(shape)
    turned = first * cos - second * sin
    second.copy_(second * cos + first * sin)
    first.copy_(turned)


def _attend(q: Tensor, keys: Tensor, values: Tensor, visible: Sequence[int]) -> Tensor:
    rows, heads, dim = q.shape
    kv_heads = keys.shape[0]
    seen = max(visible)
    keys, values = keys[:, :seen], values[:, :seen]
    group = heads // kv_heads
    # Heads of one group share their keys: they become more rows of one product.
    grouped = q.reshape(rows, kv_heads, group, dim).permute(1, 2, 0, 3).reshape(kv_heads, group * rows, dim)
    scores = torch.bmm(grouped * dim**-0.5, keys.transpose(1, 2))
    if min(visible) < seen:
        limits = torch.tensor(list(visible)).unsqueeze(1)
        hidden = torch.arange(seen).unsqueeze(0) >= limits
        scores.view(kv_heads, group, rows, seen).masked_fill_(hidden, float("-inf"))
    mixed = torch.bmm(torch.softmax(scores, dim=-1), values)
    return mixed.view(kv_heads, group, rows, dim).permute(2, 0, 1, 3).reshape(rows, heads * dim)
