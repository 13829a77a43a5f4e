"""What the engine sees of a model, and how one is built.

Knows the two architectures by name; nothing of files, kernels or text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.chatglm import build_chatglm
from chatglm_backend.models.chatglm2 import build_chatglm2
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.kv_cache import KVCache
from chatglm_backend.models.ops import Ops
from chatglm_backend.models.prefill import Prefill
from chatglm_backend.models.rows import Feed
from chatglm_backend.models.weights import Weights


class ChatModel(Protocol):
    """A loaded model. One thread at a time."""

    config: ModelConfig

    @property
    def settled(self) -> bool:
        """Whether the last step took the time that further ones like it will take."""

    def new_cache(self, capacity: int, adapter: Adapter | None = None) -> KVCache:
        """An empty cache for at most ``capacity`` tokens, at most the context limit; its sequence is ``adapter``'s."""

    def prefill(self, ids: Sequence[int], cache: KVCache, *, max_rows: int = 128, logit_rows: int = 1) -> Prefill:
        """Start reading a prompt; ChatGLM2 and ChatGLM3 continue at the cache's length, ChatGLM-6B wants it empty."""

    def decode(self, feeds: Sequence[Feed]) -> Tensor:
        """One step of several sequences -> fp32 logits [all rows, vocab], rows of the feeds in order."""


def build_model(
    config: ModelConfig, weights: Weights, *, kv_dtype: torch.dtype = torch.float16, ops: Ops | None = None
) -> ChatModel:
    """Put a model together from a config and its weights; reads no weight but the vectors yet."""
    chosen = ops or Ops()
    if config.family == "chatglm":
        return build_chatglm(config, weights, ops=chosen, kv_dtype=kv_dtype)
    return build_chatglm2(config, weights, ops=chosen, kv_dtype=kv_dtype)
