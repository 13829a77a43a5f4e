"""Where kernels keep what they learn, and which ones a loaded model can be compared on.

Imports no torch until a kernel is wanted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm_backend.checkpoint.places import cache_root, kernels_root
from chatglm_backend.core import CancelToken, GenerationRequest
from chatglm_backend.settings import Settings, with_cache

if TYPE_CHECKING:
    import torch

    from chatglm_backend.checkpoint.lowbit import Checkpoint
    from chatglm_backend.engine.engine import Engine
    from chatglm_backend.engine.options import PreparedRequest
    from chatglm_backend.engine.sequence import Sequence, StepResult
    from chatglm_backend.int4.kernel import Kernel
    from chatglm_backend.models.base import ChatModel
    from chatglm_backend.tokenizers.base import Tokenizer


_log = logging.getLogger(__name__)


def kernel_cache(settings: Settings, env: Mapping[str, str] = os.environ) -> Path | None:
    """The folder for compiled kernels and the choice between them; ``None`` where nothing is to be kept.

    It is its owner's alone, as what lies in it is run; one that others may write is emptied and closed to them, or
    where it is not ours not used.
    """
    if settings.no_cache:
        return None
    folder = kernels_root(cache_root(with_cache(settings, env)))
    with contextlib.suppress(OSError):
        if os.name != "nt" and folder.is_dir() and _ours(folder) and folder.stat().st_mode & 0o022:
            shutil.rmtree(folder)  # whoever may write there may have done so; it is made again in seconds
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "nt" or not folder.is_dir():
        return folder
    if _ours(folder) and not folder.stat().st_mode & 0o022:  # not so where it could not be emptied
        return folder
    _log.warning("compiled kernels are not kept in %s: others may write there (chmod go-w)", folder)
    return None


def _ours(folder: Path) -> bool:
    return folder.stat().st_uid == os.getuid()


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

    def make() -> ChatModel:
        checkpoint.check(checkpoint.names())
        return build_model(network.config, Int4Weights(checkpoint, "bigdl"), kv_dtype=kv_dtype)

    return {"bigdl": make}


class ComparisonEngine:
    """The same weights on another kernel, as a second engine that is made when it is first wanted.

    It keeps nothing from one request to the next: a comparison reads its whole prompt itself.
    """

    def __init__(self, own: Engine, tokenizer: Tokenizer, make: Callable[[], ChatModel]) -> None:
        self._own = own
        self._tokenizer = tokenizer
        self._make = make

    @cached_property
    def _engine(self) -> Engine:
        from chatglm_backend.engine.engine import Engine

        return Engine(self._make(), self._tokenizer, replace(self._own.options, prefix_cache_bytes=0))

    def prepare(self, request: GenerationRequest) -> PreparedRequest:
        """As on the model's own kernel; safe from any thread."""
        return self._own.prepare(request)

    def start(
        self, request: GenerationRequest, cancel: CancelToken, submitted_at: float, prepared: PreparedRequest
    ) -> Sequence:
        """See :class:`~chatglm_backend.engine.engine.Engine`."""
        return self._engine.start(request, cancel, submitted_at, prepared)

    def step(self) -> list[tuple[Sequence, StepResult]]:
        """See :class:`~chatglm_backend.engine.engine.Engine`."""
        return self._engine.step()
