"""A converted checkpoint that lives in memory, for runs that write nothing."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from chatglm_backend.checkpoint.source import CheckpointFolder
from chatglm_backend.models.config import ModelConfig

__all__ = ["MemoryCheckpoint"]


class MemoryCheckpoint:
    """INT4 tensors held in memory, for runs that write nothing."""

    def __init__(self, source: CheckpointFolder, tensors: Mapping[str, Tensor]) -> None:
        self.name = source.name
        self.config: ModelConfig = source.config
        self.tokenizer_folder = source.path
        self._tensors = dict(tensors)

    @property
    def nbytes(self) -> int:
        """The weights' size, in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def get(self, name: str) -> Tensor:
        """As in a low-bit folder. Raises KeyError."""
        return self._tensors[name]

    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self._tensors)

    def derived(self, tag: str) -> None:  # noqa: ARG002
        """Nothing is kept for memory."""
        return

    def release(self, name: str) -> None:
        """Forget a tensor, once a kernel has its own layout of it."""
        del self._tensors[name]
