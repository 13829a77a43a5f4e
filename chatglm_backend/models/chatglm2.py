"""ChatGLM2-6B, ChatGLM3-6B and GLM-4: pre-norm blocks with RMSNorm, SwiGLU and grouped keys and values; causal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from chatglm_backend.models.adaptable import Adaptable
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.decoder import Decoder
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.network import Network, Projected
from chatglm_backend.models.ops import Ops, RotaryTable, rotary_table
from chatglm_backend.models.positions import PositionPlan
from chatglm_backend.models.rows import Rows
from chatglm_backend.models.weights import Weights


class ChatGLM2Layer:
    """One block; see :class:`~chatglm_backend.models.network.Layer`."""

    def __init__(self, config: ModelConfig, weights: Weights, name: str, ops: Ops, rotary: RotaryTable) -> None:
        self._config = config
        self._ops = ops
        self._rotary = rotary
        self._norm_in = weights.vector(f"{name}.input_layernorm.weight")
        self._norm_mlp = weights.vector(f"{name}.post_attention_layernorm.weight")
        post = [f"{name}.post_{part}_layernorm.weight" for part in ("self_attn", "mlp") if config.post_norms]
        self._norms_after = [weights.vector(norm) for norm in post]
        self._qkv = Adaptable(weights, f"{name}.self_attention.query_key_value", ops)
        self._dense = Adaptable(weights, f"{name}.self_attention.dense", ops)
        self._up = Adaptable(weights, f"{name}.mlp.dense_h_to_4h", ops)
        self._down = Adaptable(weights, f"{name}.mlp.dense_4h_to_h", ops)

    def project(self, hidden: Tensor, rows: Rows) -> Projected:
        """See :class:`~chatglm_backend.models.network.Layer`."""
        config = self._config
        normed = self._ops.rms_norm(hidden, self._norm_in, config.layernorm_eps)
        qkv = self._qkv(normed, rows).view(hidden.shape[0], -1, config.head_dim)
        q, k, v = torch.split(qkv, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        # Queries and keys lie side by side and turn alike; the later features may stay.
        turning = qkv[:, : config.num_heads + config.num_kv_heads, : config.rotary_dim]
        self._ops.rotate_pairs(turning, self._rotary, rows.positions)
        return Projected(hidden, q, k, v)

    def finish(self, residual: Tensor, attended: Tensor, rows: Rows) -> Tensor:
        """See :class:`~chatglm_backend.models.network.Layer`."""
        ops = self._ops
        hidden = ops.add_scaled(residual, 1.0, self._after(0, self._dense(attended, rows)))
        normed = ops.rms_norm(hidden, self._norm_mlp, self._config.layernorm_eps)
        return ops.add_scaled(hidden, 1.0, self._after(1, self._down(ops.swiglu(self._up(normed, rows)), rows)))

    def _after(self, part: int, result: Tensor) -> Tensor:
        """What attention (0) or the MLP (1) gives, through GLM-4-0414's further norm."""
        if not self._norms_after:
            return result
        return self._ops.rms_norm(result, self._norms_after[part], self._config.layernorm_eps)


def build_chatglm2(config: ModelConfig, weights: Weights, *, ops: Ops, kv_dtype: torch.dtype) -> Decoder:
    """The model of a "chatglm2", "chatglm3" or "glm4" config."""

    def planner(ids: Sequence[int], cache: KVCache) -> PositionPlan:  # noqa: ARG001
        return PositionPlan()

    rotary = rotary_table(
        dim=config.rotary_dim, positions=config.context_limit, fp16_frequencies=False,
        base=config.rope_base, divisor=config.rope_divisor,
    )  # fmt: skip
    norm = weights.vector("transformer.encoder.final_layernorm.weight")
    network = Network(
        embedding=weights.embedding("transformer.embedding.word_embeddings"),
        layers=[
            ChatGLM2Layer(config, weights, f"transformer.encoder.layers.{index}", ops, rotary)
            for index in range(config.num_layers)
        ],
        final_norm=lambda hidden: ops.rms_norm(hidden, norm, config.layernorm_eps),
        output=Adaptable(weights, "transformer.output_layer", ops),
        ops=ops,
    )
    return Decoder(config, network, planner=planner, kv_dtype=kv_dtype)
