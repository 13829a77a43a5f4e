"""The models of the family that people can get, one row each; sizes are computed from the shapes.

Documents, page, ``doctor``, ``download`` and ``benchmark --synthetic`` read it. Opens nothing, loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from chatglm_backend.checkpoint.places import canonical
from chatglm_backend.int4.packing import row_bytes
from chatglm_backend.models.config import Family, ModelConfig, family_named_in
from chatglm_backend.models.layout import tensor_specs
from chatglm_backend.sentences import Sentence

WORKING_MEMORY = 1_000_000_000
"""Bytes beside weights and K/V: the program, and the activations of a prompt."""

# What the authors' config.json says of sizes and ids.
_COMMON: Mapping[str, object] = {
    "hidden_size": 4096, "layernorm_epsilon": 1e-05, "model_type": "chatglm", "num_attention_heads": 32,
    "num_layers": 28, "torch_dtype": "float16",
}  # fmt: skip
_FIRST: Mapping[str, object] = {
    **_COMMON, "bos_token_id": 130004, "eos_token_id": 130005, "gmask_token_id": 130001, "inner_hidden_size": 16384,
    "mask_token_id": 130000, "max_sequence_length": 2048, "pad_token_id": 3, "position_encoding_2d": True,
    "vocab_size": 130528,
}  # fmt: skip
_SECOND: Mapping[str, object] = {
    **_COMMON, "add_bias_linear": False, "add_qkv_bias": True, "apply_residual_connection_post_layernorm": False,
    "eos_token_id": 2, "ffn_hidden_size": 13696, "kv_channels": 128, "multi_query_attention": True,
    "multi_query_group_num": 2, "original_rope": True, "pad_token_id": 0, "padded_vocab_size": 65024,
    "post_layer_norm": True, "rmsnorm": True, "seq_length": 8192, "tie_word_embeddings": False,
}  # fmt: skip
_GLM4: Mapping[str, object] = {
    **_SECOND, "eos_token_id": [151329, 151336, 151338], "layernorm_epsilon": 1.5625e-07, "num_layers": 40,
    "pad_token_id": 151329, "padded_vocab_size": 151552, "rope_ratio": 500, "seq_length": 131072,
    "torch_dtype": "bfloat16",
}  # fmt: skip
_TRANSFORMERS: Mapping[str, object] = {
    "attention_bias": False, "head_dim": 128, "hidden_act": "silu", "num_hidden_layers": 40,
    "partial_rotary_factor": 1.0, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}  # fmt: skip
_GLM4_0414: Mapping[str, object] = {
    **_TRANSFORMERS, "attention_bias": True, "eos_token_id": [151329, 151336, 151338], "hidden_size": 4096,
    "intermediate_size": 13696, "max_position_embeddings": 32768, "model_type": "glm4", "num_attention_heads": 32,
    "num_key_value_heads": 2, "pad_token_id": 151329, "partial_rotary_factor": 0.5, "vocab_size": 151552,
}  # fmt: skip
_EDGE_4B: Mapping[str, object] = {
    **_TRANSFORMERS, "eos_token_id": [59246, 59253, 59255], "hidden_size": 3072, "intermediate_size": 8192,
    "max_position_embeddings": 8192, "model_type": "glm", "num_attention_heads": 24, "num_key_value_heads": 6,
    "pad_token_id": 59246, "vocab_size": 59264,
}  # fmt: skip
_EDGE_1_5B: Mapping[str, object] = {
    **_EDGE_4B, "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16, "num_hidden_layers": 28,
    "num_key_value_heads": 4, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One model. ``json`` is what its config.json says of sizes and ids; ``good_for`` names a sentence.

    ``bits`` a weight has in the authors' files; ``checked``: a copy of their config.json was seen.
    """

    name: str
    hub_id: str
    good_for: str
    json: Mapping[str, object] = field(repr=False, hash=False)
    bits: int = 16
    checked: bool = True

    @property
    def short(self) -> str:
        """Its name on a command line."""
        return self.hub_id.rpartition("/")[2].lower()

    @property
    def family(self) -> Family:
        """Which forward pass, tokenizer and prompt format."""
        return family_named_in(self.hub_id) or "chatglm"

    @property
    def config(self) -> ModelConfig:
        """Its shapes."""
        return ModelConfig.from_json(self.json, family=self.family, path=self.short)

    @property
    def use(self) -> Sentence:
        """What it is good for."""
        return Sentence(f"known.good.{self.good_for}")

    @property
    def download_bytes(self) -> int:
        """The authors' weight files; in full precision ChatGLM-6B's hold the tied output layer twice."""
        specs = tensor_specs(self.config)
        if self.config.tied or (self.family == "chatglm" and self.bits < 16):
            specs = specs[:-1]
        total = 0
        for spec in specs:
            packed = spec.kind == "linear" and self.bits < 16
            total += math.prod(spec.shape) * (self.bits if packed else 16) // 8 + (2 * spec.shape[0] if packed else 0)
        return total


def _long(name: str, ratio: int, tokens: int, good_for: str, *, checked: bool) -> KnownModel:
    json = {**_SECOND, "seq_length": tokens, "rope_ratio": ratio}
    return KnownModel(name, f"THUDM/{name.lower()}", good_for, json, checked=checked)


KNOWN: tuple[KnownModel, ...] = (
    KnownModel("ChatGLM-6B", "THUDM/chatglm-6b", "recipe", _FIRST),
    KnownModel("ChatGLM-6B-INT4", "THUDM/chatglm-6b-int4", "third", {**_FIRST, "quantization_bit": 4}, bits=4),
    KnownModel(
        "ChatGLM-6B-INT8", "THUDM/chatglm-6b-int8", "half", {**_FIRST, "quantization_bit": 8}, bits=8, checked=False
    ),
    KnownModel("ChatGLM2-6B", "THUDM/chatglm2-6b", "visitors", {**_SECOND, "seq_length": 32768}),
    KnownModel(
        "ChatGLM2-6B-INT4", "THUDM/chatglm2-6b-int4", "third",
        {**_SECOND, "seq_length": 32768, "quantization_bit": 4}, bits=4,
    ),
    _long("ChatGLM2-6B-32K", 16, 32768, "long", checked=True),
    KnownModel("ChatGLM3-6B", "THUDM/chatglm3-6b", "tools", _SECOND),
    _long("ChatGLM3-6B-32K", 50, 32768, "long", checked=False),
    _long("ChatGLM3-6B-128K", 500, 131072, "longest", checked=False),
    KnownModel("CodeGeeX2-6B", "THUDM/codegeex2-6b", "code", {**_SECOND, "torch_dtype": "bfloat16"}, checked=False),
    KnownModel("GLM-4-9B-Chat", "THUDM/glm-4-9b-chat", "large", _GLM4),
    KnownModel("GLM-4-9B-0414", "THUDM/GLM-4-9B-0414", "large", _GLM4_0414, checked=False),
    KnownModel("GLM-Edge-1.5B-Chat", "THUDM/glm-edge-1.5b-chat", "small", _EDGE_1_5B),
    KnownModel("GLM-Edge-4B-Chat", "THUDM/glm-edge-4b-chat", "medium", _EDGE_4B, checked=False),
)  # fmt: skip
"""In the order in which they are shown."""

MODELS: Mapping[str, KnownModel] = {row.short: row for row in KNOWN}
"""By their short names."""


def known_model(model: str) -> KnownModel | None:
    """The row of a hub id or of a short name; ``None`` for any other text."""
    called = canonical(model.strip()).lower()
    return next((row for row in KNOWN if called in (row.short, row.hub_id.lower())), None)


def hub_id_of(model: str) -> str:
    """The hub id that a short name means; any other text as it is."""
    row = None if "/" in model else known_model(model)
    return model if row is None else row.hub_id


def int4_bytes(config: ModelConfig) -> int:
    """Bytes of INT4 weights, scales included, that one decode step reads."""
    specs = tensor_specs(config)
    return sum(spec.shape[0] * row_bytes(spec.shape[1]) for spec in specs if spec.kind in ("linear", "output"))


def low_bit_bytes(config: ModelConfig) -> int:
    """Bytes of the low-bit checkpoint: INT4, an fp16 embedding, fp32 vectors."""
    wide = {"embedding": 2, "vector": 4}
    return int4_bytes(config) + sum(math.prod(s.shape) * wide.get(s.kind, 0) for s in tensor_specs(config))


def disk_bytes(config: ModelConfig) -> int:
    """What stays on the disk beside a download: the low-bit checkpoint, and its INT4 again in a kernel's own order."""
    return low_bit_bytes(config) + int4_bytes(config)


def kv_values(config: ModelConfig) -> int:
    """Numbers that the KV cache holds per token."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim
