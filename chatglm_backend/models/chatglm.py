"""ChatGLM-6B: scaled residuals from the normalised input, rotary positions in two dimensions, a prefix LM."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from chatglm_backend.models.adaptable import Adaptable
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.decoder import Decoder
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.network import Network, Projected
from chatglm_backend.models.ops import Ops, RotaryTable, rotary_table
from chatglm_backend.models.positions import PositionPlan, prefix_lm_plan
from chatglm_backend.models.rows import Rows
from chatglm_backend.models.weights import Weights

# The reference never tells its blocks how many layers there are, so 28 holds for every size.
_RESIDUAL_SCALE = math.sqrt(2 * 28)

PlanFor = Callable[[Sequence[int], ModelConfig], PositionPlan]


class ChatGLMLayer:
    """One block; see :class:`~chatglm_backend.models.network.Layer`."""

    def __init__(self, config: ModelConfig, weights: Weights, name: str, ops: Ops, rotary: RotaryTable) -> None:
        self._config = config
        self._ops = ops
        self._rotary = rotary
        self._norm_in = (
            weights.vector(f"{name}.input_layernorm.weight"),
            weights.vector(f"{name}.input_layernorm.bias"),
        )
        self._norm_mlp = (
            weights.vector(f"{name}.post_attention_layernorm.weight"),
            weights.vector(f"{name}.post_attention_layernorm.bias"),
        )
        self._qkv = Adaptable(weights, f"{name}.attention.query_key_value", ops)
        self._dense = Adaptable(weights, f"{name}.attention.dense", ops)
        self._up = Adaptable(weights, f"{name}.mlp.dense_h_to_4h", ops)
        self._down = Adaptable(weights, f"{name}.mlp.dense_4h_to_h", ops)

    def project(self, hidden: Tensor, rows: Rows) -> Projected:
        """See :class:`~chatglm_backend.models.network.Layer`."""
        config = self._config
        normed = self._ops.layer_norm(hidden, *self._norm_in, config.layernorm_eps)
        # Per head: query, key, value.
        qkv = self._qkv(normed, rows).view(-1, config.num_heads, 3 * config.head_dim)
        q, k, v = torch.split(qkv, config.head_dim, dim=-1)
        # Queries and keys turn alike: half of their features by the position, half by the block position.
        turning = qkv.view(-1, config.num_heads, 3, config.head_dim)[:, :, :2]
        half = config.head_dim // 2
        self._ops.rotate_halves(turning[..., :half], self._rotary, rows.positions)
        self._ops.rotate_halves(turning[..., half:], self._rotary, rows.blocks)
        return Projected(normed, q, k, v)

    def finish(self, residual: Tensor, attended: Tensor, rows: Rows) -> Tensor:
        """See :class:`~chatglm_backend.models.network.Layer`."""
        ops = self._ops
        hidden = ops.add_scaled(residual, _RESIDUAL_SCALE, self._dense(attended, rows))
        normed = ops.layer_norm(hidden, *self._norm_mlp, self._config.layernorm_eps)
        return ops.add_scaled(normed, _RESIDUAL_SCALE, self._down(ops.gelu(self._up(normed, rows)), rows))


def build_chatglm(
    config: ModelConfig, weights: Weights, *, ops: Ops, kv_dtype: torch.dtype, plan_for: PlanFor = prefix_lm_plan
) -> Decoder:
    """The model of a "chatglm" config. ``plan_for`` decides the positions of a prompt."""

    def planner(ids: Sequence[int], cache: KVCache) -> PositionPlan:
        # What follows <sop> sees no token behind itself.
        return cache.plan or plan_for(ids, config)

    rotary = rotary_table(dim=config.head_dim // 2, positions=config.context_limit + 1, fp16_frequencies=True)
    norm = (weights.vector("transformer.final_layernorm.weight"), weights.vector("transformer.final_layernorm.bias"))
    network = Network(
        embedding=weights.embedding("transformer.word_embeddings"),
        layers=[
            ChatGLMLayer(config, weights, f"transformer.layers.{index}", ops, rotary)
            for index in range(config.num_layers)
        ],
        final_norm=lambda hidden: ops.layer_norm(hidden, *norm, config.layernorm_eps),
        output=Adaptable(weights, "lm_head", ops),
        ops=ops,
    )
    return Decoder(config, network, planner=planner, kv_dtype=kv_dtype)
