"""Random weights of a real model's shape, made on demand in memory: no file, no quantisation.

Speed does not depend on the values, so this is enough to learn how a model would run before
it is downloaded. Knows shapes from :mod:`chatglm_backend.models.layout`; nothing of kernels.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from chatglm_backend.int4.packing import BLOCK_BYTES, BLOCK_WEIGHTS
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.layout import TensorSpec, tensor_specs

_SCALE = 0.0043
"""Block scale at which uniform nibbles have the spread of trained weights, about 0.02."""
_POOL_BYTES = 1 << 24


class SyntheticTensors:
    """:class:`~chatglm_backend.int4.weights.PackedTensors` of random values, made anew at every ``get``.

    The same name gives the same values again. Nothing is kept, so a kernel that lays the bytes out
    anew never has them twice.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0) -> None:
        self._specs = {spec.name: spec for spec in tensor_specs(config)}
        generator = torch.Generator().manual_seed(seed)
        self._pool = torch.randint(0, 256, (_POOL_BYTES,), dtype=torch.uint8, generator=generator)

    def names(self) -> frozenset[str]:
        """See :class:`~chatglm_backend.int4.weights.PackedTensors`."""
        return frozenset(self._specs)

    def get(self, name: str) -> Tensor:
        """See :class:`~chatglm_backend.int4.weights.PackedTensors`. Raises KeyError for an unknown name."""
        spec = self._specs[name]
        if spec.kind in ("linear", "output"):
            return self._blocks(spec)
        if spec.kind == "embedding":
            return (
                self._bytes(spec, spec.shape[0] * spec.shape[1])
                .float()
                .sub_(127.5)
                .mul_(0.0003)
                .half()
                .view(spec.shape)
            )
        is_scale = name.endswith("norm.weight")
        return torch.full(spec.shape, 1.0 if is_scale else 0.0)

    def _blocks(self, spec: TensorSpec) -> Tensor:
        out, in_ = spec.shape
        blocks = self._bytes(spec, out * in_ // BLOCK_WEIGHTS * BLOCK_BYTES).view(-1, BLOCK_BYTES)
        scale = torch.tensor([_SCALE], dtype=torch.float16).view(torch.uint8)
        blocks[:, :2] = scale
        return blocks.view(out, in_ // BLOCK_WEIGHTS * BLOCK_BYTES)

    def _bytes(self, spec: TensorSpec, count: int) -> Tensor:
        """``count`` bytes of the pool, from a place of the tensor's own."""
        start = zlib.crc32(spec.name.encode()) % _POOL_BYTES
        repeats = (start + count) // _POOL_BYTES + 1
        return self._pool.repeat(repeats)[start : start + count].clone()
