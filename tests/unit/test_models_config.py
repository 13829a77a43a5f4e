"""Reading config.json: the three families, and everything that is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from chatglm_backend.errors import DamagedFile, UnsupportedFamily
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.layout import tensor_specs

FIRST: dict[str, Any] = {
    "architectures": ["ChatGLMModel"],
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "mask_token_id": 130000,
    "gmask_token_id": 130001,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048,
    "model_type": "chatglm",
    "num_attention_heads": 32,
    "num_layers": 28,
    "position_encoding_2d": True,
    "vocab_size": 130528,
}
SECOND: dict[str, Any] = {
    "_name_or_path": "THUDM/chatglm2-6b",
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "rmsnorm": True,
    "seq_length": 32768,
}


def test_the_first_family() -> None:
    """ChatGLM-6B's sizes and special ids come from its config."""
    config = ModelConfig.from_json(FIRST)
    assert (config.family, config.head_dim, config.num_kv_heads) == ("chatglm", 128, 32)
    assert (config.gmask_id, config.mask_id, config.bos_id, config.stop_ids) == (130001, 130000, 130004, (130005,))


def test_the_older_vocabulary_without_mask_ids() -> None:
    """The 150528-token revision leaves the mask ids out; they lie in front of <sop> there too."""
    older = {**FIRST, "vocab_size": 150528, "bos_token_id": 150004, "eos_token_id": 150005}
    del older["mask_token_id"], older["gmask_token_id"]
    config = ModelConfig.from_json(older)
    assert (config.gmask_id, config.mask_id, config.stop_ids) == (150001, 150000, (150005,))


@pytest.mark.parametrize(("family", "stop_ids"), [("chatglm2", (2,)), ("chatglm3", (2, 64795, 64797))])
def test_the_caller_tells_second_and_third_apart(family: Any, stop_ids: tuple[int, ...]) -> None:
    """The stop ids follow the family that the caller names."""
    config = ModelConfig.from_json({**SECOND, "_name_or_path": ""}, family=family)
    assert (config.family, config.num_kv_heads, config.stop_ids) == (family, 2, stop_ids)


def test_a_name_tells_them_apart_when_nobody_else_does() -> None:
    """First the config's own name counts, then the folder's."""
    assert ModelConfig.from_json(SECOND).family == "chatglm2"
    assert ModelConfig.from_json({**SECOND, "_name_or_path": "x"}, path="/models/chatglm3-6b").family == "chatglm3"


@pytest.mark.parametrize(
    ("config", "found"),
    [
        ({**SECOND, "rope_ratio": 50}, "rope_ratio"),
        ({**SECOND, "padded_vocab_size": 151552, "rope_ratio": 500}, "GLM-4"),
        ({**SECOND, "rmsnorm": False}, "rmsnorm"),
        ({**SECOND, "_name_or_path": ""}, "--family"),
        ({**FIRST, "position_encoding_2d": False}, "positions"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"model_type": "qwen2"}, "qwen2"),
        ({}, "no model"),
    ],
)
def test_other_models_are_refused_by_name(config: dict[str, Any], found: str) -> None:
    """The sentence says what was found."""
    with pytest.raises(UnsupportedFamily, match=found):
        ModelConfig.from_json(config)


def test_a_family_that_contradicts_the_config_is_refused() -> None:
    """Naming the wrong family cannot load nonsense."""
    with pytest.raises(UnsupportedFamily):
        ModelConfig.from_json(FIRST, family="chatglm3")
    with pytest.raises(UnsupportedFamily):
        ModelConfig.from_json(SECOND, family="chatglm")


@pytest.mark.parametrize("value", [None, "4096", -1, 4096.5, True])
def test_unusable_sizes_are_named(value: object) -> None:
    """A damaged config says which key is wrong."""
    with pytest.raises(DamagedFile, match="hidden_size"):
        ModelConfig.from_json({**SECOND, "hidden_size": value})


@pytest.mark.parametrize(("config", "billions"), [(FIRST, 6.71), (SECOND, 6.24)])
def test_the_layout_has_the_published_size(config: dict[str, Any], billions: float) -> None:
    """The tensors add up to the published number of weights (the tied output layer counted twice)."""
    total = 0
    for spec in tensor_specs(ModelConfig.from_json(config)):
        size = 1
        for length in spec.shape:
            size *= length
        total += size
    assert round(total / 1e9, 2) == billions
