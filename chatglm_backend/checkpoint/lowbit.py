"""A checkpoint in INT4, ready to compute with: bigdl's own bytes, an fp16 embedding, fp32 vectors.

In memory, or mapped from a low-bit folder: opening that checks the manifest and the files, maps them and
reads nothing more. Converting is ``convert``'s business, a kernel's own layouts are ``derived``'s.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from chatglm_backend.checkpoint.adapters import PREFIX_ROWS
from chatglm_backend.checkpoint.derived import DERIVED, DerivedLayouts
from chatglm_backend.checkpoint.manifest import Manifest, read_manifest, verify_files
from chatglm_backend.checkpoint.mapping import HeldTensors, MappedTensors
from chatglm_backend.checkpoint.places import cache_root, slug
from chatglm_backend.checkpoint.sums import CheckedTensors
from chatglm_backend.errors import CheckpointError
from chatglm_backend.models.config import ModelConfig


class Checkpoint:
    """What the engine's room is given: INT4 tensors by the authors' names, the config, and where the tokenizer lies.

    Linear and output weights are uint8 [out, in // 64 * 34], the embedding fp16, vectors and a prefix fp32.
    """

    def __init__(self, name: str, config: ModelConfig, tokenizer_folder: Path, tensors: HeldTensors) -> None:
        self.name = name
        self.config = config
        self.tokenizer_folder = tokenizer_folder
        self.get = tensors.get
        self.names = tensors.names
        self.release = tensors.release
        self._tensors = tensors

    def check(self, names: Iterable[str]) -> None:
        """See that these tensors are as they were written, before they are used. Raises DamagedLowBit."""

    @property
    def prefix(self) -> Tensor | None:
        """The finished rows of a prefix inside the model: fp32 [2 * layers, kv_heads, rows, head_dim]."""
        return self.get(PREFIX_ROWS) if PREFIX_ROWS in self.names() else None

    @property
    def nbytes(self) -> int:
        """The weights' size, in bytes."""
        return self._tensors.nbytes


class LowBitCheckpoint(Checkpoint):
    """A mapped low-bit folder, with the layouts that kernels keep beside it."""

    def __init__(
        self, folder: Path, manifest: Manifest, tensors: MappedTensors, layouts: DerivedLayouts, checked: CheckedTensors
    ) -> None:
        config = ModelConfig.from_json(manifest.config, family=manifest.family, path=str(folder))
        super().__init__(manifest.name, config, folder / manifest.data, tensors)
        self.folder = folder
        self.manifest = manifest
        self.layouts = layouts
        self.check = checked.check  # type: ignore[method-assign]


def open_low_bit(path: Path, *, env: Mapping[str, str] = os.environ) -> LowBitCheckpoint:
    """Open a low-bit folder: check manifest and files (those changed since the last check are hashed), map them.

    Of the matrices nothing is read: whoever uses them calls ``check`` first.
    Raises DamagedLowBit naming the file, CheckpointError for another format, MissingFile for no manifest.
    """
    manifest = read_manifest(path)
    try:
        return _open(path, manifest, env)
    except (CheckpointError, FileNotFoundError):
        # Another process may have published a new generation and removed this one in between.
        newer = read_manifest(path)
        if newer.data == manifest.data:
            raise
        return _open(path, newer, env)


def _open(path: Path, manifest: Manifest, env: Mapping[str, str]) -> LowBitCheckpoint:
    hashed = verify_files(path, manifest)
    names = sorted(name for name in manifest.files if name.endswith(".safetensors"))
    tensors = MappedTensors.open(*(path / manifest.data / name for name in names))
    # Beside the checkpoint; below the cache folder where the checkpoint cannot be written (a bundled model).
    beside = path / DERIVED
    if not beside.is_dir() and not os.access(path, os.W_OK):
        beside = cache_root(env) / DERIVED / f"{slug(manifest.name)}-{manifest.source_fingerprint[:8]}"
    layouts = DerivedLayouts(beside, manifest.name, manifest.data + manifest.source_fingerprint, tensors)
    checked = CheckedTensors(path, manifest, tensors, hashed=hashed)
    checked.check(name for name in sorted(tensors.names()) if tensors.get(name).dtype is not torch.uint8)
    return LowBitCheckpoint(path, manifest, tensors, layouts, checked)
