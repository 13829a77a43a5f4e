"""Reading config.json: the three families, and everything that is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from chatglm_backend.errors import DamagedFile, UnsupportedFamily
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.layout import parameter_count, tensor_specs

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
GLM4: dict[str, Any] = {
    **SECOND,
    "architectures": ["ChatGLMModel"],
    "eos_token_id": [151329, 151336, 151338],
    "layernorm_epsilon": 1.5625e-07,
    "num_layers": 40,
    "padded_vocab_size": 151552,
    "rope_ratio": 500,
    "seq_length": 131072,
}
EDGE: dict[str, Any] = {
    "model_type": "glm",
    "attention_bias": False,
    "eos_token_id": [59246, 59253, 59255],
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 8192,
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": True,
    "vocab_size": 59264,
}
HF: dict[str, Any] = {
    "model_type": "glm",
    "eos_token_id": [151329, 151336, 151338],
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 5000000.0,
    "vocab_size": 151552,
}


def test_the_first_family() -> None:
    """ChatGLM-6B's sizes and special ids come from its config."""
    config = ModelConfig.from_json(FIRST, family="chatglm")
    assert (config.family, config.head_dim, config.num_kv_heads) == ("chatglm", 128, 32)
    assert (config.gmask_id, config.mask_id, config.bos_id, config.stop_ids) == (130001, 130000, 130004, (130005,))


def test_the_older_vocabulary_without_mask_ids() -> None:
    """The 150528-token revision leaves the mask ids out; they lie in front of <sop> there too."""
    older = {**FIRST, "vocab_size": 150528, "bos_token_id": 150004, "eos_token_id": 150005}
    del older["mask_token_id"], older["gmask_token_id"]
    config = ModelConfig.from_json(older, family="chatglm")
    assert (config.gmask_id, config.mask_id, config.stop_ids) == (150001, 150000, (150005,))


@pytest.mark.parametrize(("vocab", "bos"), [(130528, 130004), (150528, 150004)])
@pytest.mark.parametrize("eos", [2, None, [2, 20002], "eop"])
def test_eop_ends_an_answer_whatever_the_config_calls_the_end(vocab: int, bos: int, eos: object) -> None:
    """Some exports name another id, several or none; the model still ends with the id behind <sop>."""
    config = {**FIRST, "vocab_size": vocab, "bos_token_id": bos, "eos_token_id": bos + 1 if eos == "eop" else eos}
    del config["mask_token_id"], config["gmask_token_id"]
    assert bos + 1 in ModelConfig.from_json(config, family="chatglm").stop_ids


@pytest.mark.parametrize(("family", "stop_ids"), [("chatglm2", (2,)), ("chatglm3", (2, 64795, 64797))])
def test_the_caller_tells_second_and_third_apart(family: Any, stop_ids: tuple[int, ...]) -> None:
    """The stop ids follow the family that the caller names."""
    config = ModelConfig.from_json({**SECOND, "_name_or_path": ""}, family=family)
    assert (config.family, config.num_kv_heads, config.stop_ids) == (family, 2, stop_ids)


@pytest.mark.parametrize(
    ("config", "family", "found"),
    [
        ({**SECOND, "rope_ratio": 16, "rope_theta": 500000}, "chatglm2", "rope_theta = 500000"),
        ({**SECOND, "rope_scaling": {"factor": 4}}, "chatglm3", "rope_scaling"),
        ({**SECOND, "padded_vocab_size": 151552, "rope_ratio": 500}, "chatglm2", "glm4"),
        ({**GLM4, "vision_config": {}}, "glm4", "ChatGLMModel model, which also reads pictures.*GLM-4-9B-Chat"),
        ({**FIRST, "image_length": 32}, "chatglm", "pictures"),
        ({"model_type": "glm4v", "vision_config": {}}, "glm4", "glm4v model, which also reads pictures"),
        ({"model_type": "glm4_moe", "n_routed_experts": 128}, "glm4", "mixture of experts"),
        ({**EDGE, "rope_parameters": {"rope_type": "yarn"}}, "glm4", "rope_type = yarn"),
        ({**EDGE, "hidden_act": "gelu"}, "glm4", "hidden_act = gelu"),
        ({**HF, "rope_theta": 10000.0}, "glm4", r"max_position_embeddings = 131072 .* rope_theta = 10000.*5000000"),
        ({**GLM4, "rope_ratio": 1}, "glm4", r"seq_length = 131072 contradicts rope_ratio = 1.*rope_ratio = 500"),
        ({**SECOND, "rmsnorm": False}, "chatglm2", "rmsnorm"),
        ({**FIRST, "position_encoding_2d": False}, "chatglm", "positions"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "chatglm2", "LlamaForCausalLM"),
        ({"model_type": "qwen2"}, "chatglm2", "qwen2"),
        ({}, "chatglm2", "no model"),
        (FIRST, "chatglm3", "chatglm"),
        (SECOND, "chatglm", "chatglm2"),
    ],
)
def test_other_models_are_refused_by_name(config: dict[str, Any], family: Any, found: str) -> None:
    """The sentence says what was found; naming the wrong family cannot load nonsense."""
    with pytest.raises(UnsupportedFamily, match=found):
        ModelConfig.from_json(config, family=family)


@pytest.mark.parametrize("value", [None, "4096", -1, 0, 4096.5, True, 10**9, 10**300, [[[1]]], "x" * 10**6])
@pytest.mark.parametrize("key", ["hidden_size", "num_layers", "multi_query_group_num", "num_attention_heads"])
def test_unusable_sizes_are_named(key: str, value: object) -> None:
    """A damaged or hostile config says which key is wrong, in one sentence, before anything is listed or divided."""
    with pytest.raises(DamagedFile, match=key) as caught:
        ModelConfig.from_json({**SECOND, key: value}, family="chatglm2")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("ratio", "second", "third"),
    [(None, (1e4, 1), (1e4, 1)), (1.0, (1e4, 1), (1e4, 1)), (16, (1e4, 16), (16e4, 1)), (500, (1e4, 500), (5e6, 1))],
)
def test_the_family_decides_what_rope_ratio_means(ratio: object, second: object, third: object) -> None:
    """ChatGLM2 divides positions by it, ChatGLM3 multiplies the base with it; 1 is the usual model."""
    found: dict[Any, ModelConfig] = {
        family: ModelConfig.from_json({**SECOND, "rope_ratio": ratio}, family=family)
        for family in ("chatglm2", "chatglm3")
    }
    assert [(config.rope_base, config.rope_divisor) for config in found.values()] == [second, third]


@pytest.mark.parametrize("ratio", [0, -50, 0.02, True, "50", [50], 1e9, math.inf, math.nan])
def test_absurd_rope_ratios_are_named(ratio: object) -> None:
    """One sentence with the field and its value."""
    with pytest.raises(DamagedFile, match="rope_ratio"):
        ModelConfig.from_json({**SECOND, "rope_ratio": ratio}, family="chatglm3")


@pytest.mark.parametrize("change", [{"num_attention_heads": 33}, {"vocab_size": 10**9}, {"bos_token_id": 130528}])
def test_sizes_that_do_not_fit_each_other_are_refused(change: dict[str, int]) -> None:
    """Heads that do not divide, a vocabulary without end, an id outside it."""
    with pytest.raises(DamagedFile):
        ModelConfig.from_json({**FIRST, **change}, family="chatglm")


def test_both_layouts_of_glm4_mean_the_same_model() -> None:
    """The authors' keys and those of transformers, flat or nested, and GLM-4-0414 with two more norms a layer."""
    authors = ModelConfig.from_json(GLM4, family="glm4")
    flat = {key: value for key, value in HF.items() if key != "rope_theta"}
    nested = flat | {"rope_parameters": {"rope_theta": 5e6, "partial_rotary_factor": 0.5, "rope_type": "default"}}
    assert [ModelConfig.from_json(one, family="glm4") for one in (HF, nested)] == [authors, authors]
    newer = ModelConfig.from_json({**HF, "model_type": "glm4"}, family="glm4")
    assert len(tensor_specs(newer)) == len(tensor_specs(authors)) + 80
    edge = ModelConfig.from_json(EDGE, family="glm4")
    assert (edge.rotary_dim, edge.tied, edge.rope_base, authors.rotary_dim) == (128, True, 10_000, 64)
    assert not any(spec.name.endswith("query_key_value.bias") for spec in tensor_specs(edge))


@pytest.mark.parametrize(("config", "billions"), [(FIRST, 6.71), (SECOND, 6.24), (GLM4, 9.4), (HF, 9.4), (EDGE, 1.59)])
def test_the_layout_has_the_published_size(config: dict[str, Any], billions: float) -> None:
    """The tensors add up to the published number of weights (the tied output layer counted twice)."""
    family: Any = "chatglm" if config is FIRST else "chatglm2" if config is SECOND else "glm4"
    sizes = ModelConfig.from_json(config, family=family)
    total = sum(math.prod(spec.shape) for spec in tensor_specs(sizes))
    assert round(total / 1e9, 2) == billions
    assert total - parameter_count(sizes) == (
        130528 * 4096 if config is FIRST else 59264 * 2048 if config is EDGE else 0
    )
