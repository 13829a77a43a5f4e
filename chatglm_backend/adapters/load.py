"""Fine-tunes from their folders, checked against the base model's sizes.

A wrong pair of base and adapter is one sentence that names the first tensor that does not fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from chatglm_backend.adapters.folder import AdapterFolder
from chatglm_backend.adapters.lora_tensors import LoraTensors, identity_of, read_lora
from chatglm_backend.checkpoint.default import BUNDLED, bundled_base
from chatglm_backend.checkpoint.prefix import read_prefix
from chatglm_backend.checkpoint.tensors import open_file
from chatglm_backend.errors import AdapterDamaged, AdapterMismatch
from chatglm_backend.models.adapter import Adapter, Delta, Prefix
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.int8_rows import from_rows, to_rows
from chatglm_backend.models.layout import tensor_specs
from chatglm_backend.models.low_rank import low_rank
from chatglm_backend.models.weights import Linear, Weights
from chatglm_backend.sentences import Sentence


class AdaptableWeights(Weights, Protocol):
    """The base's weights, which also make products of other matrices."""

    def own_linear(self, matrix: Tensor) -> tuple[Linear, int]:
        """The product with ``matrix`` [out, in] in the base's precision, and the bytes that it takes."""
        ...


def load_adapter(
    folder: AdapterFolder,
    config: ModelConfig,
    *,
    base: AdaptableWeights,
    dtype: torch.dtype = torch.float16,
    kv_dtype: torch.dtype = torch.float16,
) -> Adapter:
    """Read a fine-tune for the base of ``config``; factors are kept in ``dtype``, prefix rows in ``kv_dtype``.

    Raises AdapterEmpty, AdapterMismatch, AdapterUnsupported, AdapterDamaged, and what reading files raises.
    """
    # Of the bundled model, which is trained anew at times, every tensor would fit and no answer would be right.
    if folder.base.partition("@")[0] == BUNDLED and folder.base != bundled_base():
        raise AdapterMismatch(path=folder.path, reason=Sentence("adapter.other_training", own=bundled_base()))
    if folder.kind == "lora":
        return _lora(read_lora(folder, config), folder, config, base, dtype)
    tensors = {one.name: one.rows() for one in open_file(folder.file)}
    trained = read_prefix(tensors, config, folder.file, folder.config.get("pre_seq_len"))
    prefix = _prefix(trained.parts(), kv_dtype, folder.file)
    return Adapter(folder.name, identity_of(folder, (*prefix.keys, *prefix.values)), prefix=prefix)


def own_prefix(rows: Tensor, kv_dtype: torch.dtype, path: Path) -> Adapter:
    """What a model with a prefix inside answers with by itself; ``rows`` are its checkpoint's finished ones.

    Raises AdapterDamaged.
    """
    return Adapter("", "own", prefix=_prefix(rows, kv_dtype, path))


def _prefix(parts: Iterable[Tensor], dtype: torch.dtype, path: Path) -> Prefix:
    cast = tuple(to_rows(part, dtype) for part in parts)
    for index, part in enumerate(cast):
        if not bool(from_rows(part).isfinite().all()):
            raise AdapterDamaged(path=path, tensor=Sentence("adapter.layer", layer=index // 2))
    return Prefix(cast[0::2], cast[1::2])


def _lora(
    found: LoraTensors, folder: AdapterFolder, config: ModelConfig, base: AdaptableWeights, dtype: torch.dtype
) -> Adapter:
    deltas = {module: Delta(low_rank(one.a, one.b, one.scale, dtype=dtype)) for module, one in found.factors.items()}
    known = {spec.name for spec in tensor_specs(config)}
    for name, bias in found.biases.items():
        before = base.vector(name) if name in known else 0.0
        module = name.removesuffix(".bias")
        deltas[module] = Delta(deltas.get(module, Delta()).low_rank, bias.float() - before)
    output, nbytes = (None, 0) if found.output is None else base.own_linear(found.output)
    half = None if found.embedding is None else found.embedding.half()
    return Adapter(
        folder.name,
        found.identity,
        deltas,
        embedding=None if half is None else lambda ids: half[ids].float(),
        output=output,
        replaced_nbytes=nbytes + (0 if half is None else half.nbytes),
    )
