"""Models of a few layers with random weights, for tests that compare a model with itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from chatglm_backend.models.config import Family, ModelConfig
from chatglm_backend.models.layout import tensor_specs

GMASK, SOP = 91, 94


def small_config(family: Family, **changes: Any) -> ModelConfig:
    """Return a config with two layers and an odd head structure, or with changed fields."""
    values = {
        "family": family, "num_layers": 2, "hidden_size": 64, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16,
        "ffn_hidden_size": 128, "vocab_size": 96, "context_limit": 600, "layernorm_eps": 1e-5, "stop_ids": (95,),
    } | changes  # fmt: skip
    if family == "chatglm":
        values |= {"num_kv_heads": values["num_heads"], "gmask_id": GMASK, "mask_id": 90, "bos_id": SOP}
    return ModelConfig(**values)


def random_tensors(config: ModelConfig, *, seed: int = 0) -> dict[str, Tensor]:
    """Return fp32 weights of the config's shapes, small enough that nothing overflows."""
    generator = torch.Generator().manual_seed(seed)
    return {
        spec.name: torch.randn(spec.shape, generator=generator) * 0.05 + (0.5 if "norm" in spec.name else 0.0)
        for spec in tensor_specs(config)
    }


def read_prompt(model: Any, ids: Sequence[int], cache: Any, **options: int) -> Tensor:
    """Read a whole prompt into a cache; the logits of its last row, or of as many as the options ask for."""
    prefill = model.prefill(ids, cache, **options)
    while not prefill.advance():
        pass
    logits: Tensor = prefill.logits
    return logits
