"""Sums of tensors' bytes: what changed on disk is seen as fast as memory is read, also with unchanged size and time.

They stand for a file whose SHA-256 was right when they were made; against intent they protect nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chatglm_backend.checkpoint.manifest import Manifest, read_noted, verify_files, write_json_atomic
from chatglm_backend.checkpoint.mapping import HeldTensors

SUMS = "sums.json"
_BLOCK_WORDS = 8192


def tensor_sum(tensor: Tensor) -> str:
    """A hash of the sums of each 64 KiB as int64, and of the bytes that are left: no single change goes unseen."""
    raw = tensor.reshape(-1).view(torch.uint8)
    whole = raw.numel() // (8 * _BLOCK_WORDS) * 8 * _BLOCK_WORDS
    sums = np.add.reduce(raw[:whole].view(torch.int64).view(-1, _BLOCK_WORDS).numpy(), axis=1)
    return hashlib.sha256(sums.tobytes() + raw[whole:].numpy().tobytes()).hexdigest()


def tensor_sums(tensors: HeldTensors) -> dict[str, str]:
    """The sum of every tensor."""
    return {name: tensor_sum(tensors.get(name)) for name in sorted(tensors.names())}


class CheckedTensors:
    """Compares the tensors of a low-bit folder with their sums, each once, before it is first used."""

    def __init__(self, folder: Path, manifest: Manifest, tensors: HeldTensors, *, hashed: bool) -> None:
        """``hashed``: all files were just now found right. Raises DamagedLowBit."""
        self._folder, self._manifest, self._tensors = folder, manifest, tensors
        self._checked: set[str] = set()
        noted = read_noted(folder / SUMS)
        sums = noted.get("sums") if noted.get("data") == manifest.data else None
        self._sums: Mapping[str, str] = sums if isinstance(sums, dict) else {}
        if hashed or self._sums.keys() != tensors.names():
            self._make(hashed=hashed)

    def check(self, names: Iterable[str]) -> None:
        """Raises DamagedLowBit, naming the file, where a tensor is not as it was written."""
        for name in names:
            if name not in self._checked and tensor_sum(self._tensors.get(name)) != self._sums[name]:
                self._make(hashed=False)  # so either the file is damaged, or the sums are
            self._checked.add(name)

    def _make(self, *, hashed: bool) -> None:
        if not hashed:
            verify_files(self._folder, self._manifest, full=True)
        known, self._sums = self._sums, tensor_sums(self._tensors)
        self._checked = set(self._sums)
        if known == self._sums:
            return
        with contextlib.suppress(OSError):  # a folder that cannot be written is hashed at every start
            write_json_atomic(self._folder / SUMS, {"data": self._manifest.data, "sums": self._sums})
