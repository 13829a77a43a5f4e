"""Which kernels a loaded model can be compared on, besides its own. Imports no torch until one is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from chatglm_backend.checkpoint.lowbit import Checkpoint
    from chatglm_backend.int4.kernel import Kernel
    from chatglm_backend.models.base import ChatModel

__all__ = ["other_kernels"]


def other_kernels(
    checkpoint: Checkpoint, kernel: Kernel, network: ChatModel, kv_dtype: torch.dtype
) -> dict[str, Callable[[], ChatModel]]:
    """Makers of the same model on other kernels, by name: bigdl's library, on the mapped bytes as they are.

    ``network`` runs on ``kernel``. A checkpoint in memory gave its bytes up for the kernel's own layout.
    """
    from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint
    from chatglm_backend.int4.bigdl import BigdlKernel
    from chatglm_backend.int4.weights import Int4Weights
    from chatglm_backend.models.base import build_model

    if isinstance(kernel, BigdlKernel):
        return {"bigdl": lambda: network}
    if not isinstance(checkpoint, LowBitCheckpoint):
        return {}
    return {"bigdl": lambda: build_model(checkpoint.config, Int4Weights(checkpoint, "bigdl"), kv_dtype=kv_dtype)}
