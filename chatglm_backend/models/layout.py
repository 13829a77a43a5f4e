"""Which tensors a checkpoint of each family holds, by the authors' names, and where transformers' layout has them.

The list that validation, conversion and tests walk over. Knows nothing of files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from chatglm_backend.models.config import ModelConfig

TensorKind = Literal["embedding", "linear", "output", "vector"]
"""``linear`` and ``output`` become INT4; ``embedding`` stays fp16; ``vector`` is a norm or a bias."""


_RENAMED = {
    "transformer.embedding.word_embeddings.": "model.embed_tokens.",
    "transformer.encoder.final_layernorm.": "model.norm.",
    "transformer.encoder.layers.": "model.layers.",
    "transformer.output_layer.": "lm_head.",
    ".self_attention.": ".self_attn.",
    ".self_attn.dense.": ".self_attn.o_proj.",
    ".mlp.dense_h_to_4h.": ".mlp.gate_up_proj.",
    ".mlp.dense_4h_to_h.": ".mlp.down_proj.",
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its full name with ``.weight`` or ``.bias``, its shape, and what it is for."""

    name: str
    shape: tuple[int, ...]
    kind: TensorKind


def tensor_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Every tensor that the family's checkpoint needs, embedding first, output layer last.

    Where embedding and output layer are tied, a reader may find only one of the two and uses it for both.
    """
    return _first(config) if config.family == "chatglm" else _second(config)


def parameter_count(config: ModelConfig) -> int:
    """How many weights the model has; a tied output layer is not counted twice."""
    specs = tensor_specs(config)
    return sum(math.prod(spec.shape) for spec in (specs[:-1] if config.ties_output else specs))


def names_in_transformers(name: str) -> tuple[str, ...]:
    """The tensors of transformers' ``glm`` and ``glm4`` layouts that make up one of GLM-4's, row below row."""
    for ours, theirs in _RENAMED.items():
        name = name.replace(ours, theirs)
    if "query_key_value" not in name:
        return (name,)
    return tuple(name.replace("query_key_value", f"{part}_proj") for part in "qkv")


def _first(config: ModelConfig) -> tuple[TensorSpec, ...]:
    hidden, inner, vocab = config.hidden_size, config.ffn_hidden_size, config.vocab_size
    specs = [TensorSpec("transformer.word_embeddings.weight", (vocab, hidden), "embedding")]
    for index in range(config.num_layers):
        layer = f"transformer.layers.{index}."
        specs += _vectors(f"{layer}input_layernorm", hidden)
        specs += _linear(f"{layer}attention.query_key_value", 3 * hidden, hidden)
        specs += _linear(f"{layer}attention.dense", hidden, hidden)
        specs += _vectors(f"{layer}post_attention_layernorm", hidden)
        specs += _linear(f"{layer}mlp.dense_h_to_4h", inner, hidden)
        specs += _linear(f"{layer}mlp.dense_4h_to_h", hidden, inner)
    specs += _vectors("transformer.final_layernorm", hidden)
    specs.append(TensorSpec("lm_head.weight", (vocab, hidden), "output"))
    return tuple(specs)


def _second(config: ModelConfig) -> tuple[TensorSpec, ...]:
    hidden, inner, vocab = config.hidden_size, config.ffn_hidden_size, config.vocab_size
    attention = config.num_heads * config.head_dim
    qkv = attention + 2 * config.num_kv_heads * config.head_dim
    specs = [TensorSpec("transformer.embedding.word_embeddings.weight", (vocab, hidden), "embedding")]
    for index in range(config.num_layers):
        layer = f"transformer.encoder.layers.{index}."
        specs.append(TensorSpec(f"{layer}input_layernorm.weight", (hidden,), "vector"))
        specs += _linear(f"{layer}self_attention.query_key_value", qkv, hidden)[: 2 if config.qkv_bias else 1]
        specs.append(TensorSpec(f"{layer}self_attention.dense.weight", (hidden, attention), "linear"))
        norms = ("post_attention", *(("post_self_attn", "post_mlp") if config.post_norms else ()))
        specs += [TensorSpec(f"{layer}{norm}_layernorm.weight", (hidden,), "vector") for norm in norms]
        specs.append(TensorSpec(f"{layer}mlp.dense_h_to_4h.weight", (2 * inner, hidden), "linear"))
        specs.append(TensorSpec(f"{layer}mlp.dense_4h_to_h.weight", (hidden, inner), "linear"))
    specs.append(TensorSpec("transformer.encoder.final_layernorm.weight", (hidden,), "vector"))
    specs.append(TensorSpec("transformer.output_layer.weight", (vocab, hidden), "output"))
    return tuple(specs)


def _vectors(name: str, size: int) -> list[TensorSpec]:
    return [TensorSpec(f"{name}.weight", (size,), "vector"), TensorSpec(f"{name}.bias", (size,), "vector")]


def _linear(name: str, rows: int, columns: int) -> list[TensorSpec]:
    return [TensorSpec(f"{name}.weight", (rows, columns), "linear"), TensorSpec(f"{name}.bias", (rows,), "vector")]
