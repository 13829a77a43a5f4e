"""A low-bit checkpoint on disk, mapped: bigdl's own bytes, an fp16 embedding, fp32 vectors, a kernel's derived layouts.

Opening checks the manifest and the files, maps them and reads nothing more. Converting is
``convert``'s business; what a derived layout means is its kernel's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from chatglm_backend.checkpoint.lock import writer_lock
from chatglm_backend.checkpoint.manifest import (
    Manifest,
    read_manifest,
    verify_files,
    write_json_atomic,
)
from chatglm_backend.checkpoint.mapping import MappedTensors
from chatglm_backend.checkpoint.places import cache_root, slug
from chatglm_backend.checkpoint.progress import check_cancel
from chatglm_backend.checkpoint.writer import Opener, StreamWriter, TensorLayout, open_for_writing
from chatglm_backend.core import CancelToken
from chatglm_backend.errors import CheckpointError, MissingFile
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.textfile import read_json

__all__ = ["DERIVED", "Checkpoint", "LowBitCheckpoint", "Tensors", "open_low_bit"]

DERIVED = "derived"


class Tensors(Protocol):
    """Tensors by name."""

    def get(self, name: str) -> Tensor:
        """The tensor of that name. Raises KeyError."""
        ...

    def names(self) -> frozenset[str]:
        """All names."""
        ...


class Checkpoint(Tensors, Protocol):
    """What the engine's room is given: INT4 tensors, the config, and where the tokenizer lies."""

    @property
    def name(self) -> str:
        """The model's name for people."""
        ...

    @property
    def config(self) -> ModelConfig:
        """Sizes and special ids."""
        ...

    @property
    def tokenizer_folder(self) -> Path:
        """The folder with the tokenizer's file."""
        ...

    @property
    def nbytes(self) -> int:
        """The weights' size, in bytes."""
        ...

    def derived(self, tag: str) -> Tensors | None:
        """A kernel's own layout, where one was published under this tag."""
        ...

    def release(self, name: str) -> None:
        """Give a tensor's resident pages back."""
        ...


class LowBitCheckpoint:
    """A mapped low-bit checkpoint."""

    def __init__(self, folder: Path, manifest: Manifest, tensors: MappedTensors, *, derived_folder: Path) -> None:
        self.folder = folder
        self.manifest = manifest
        self._tensors = tensors
        self._derived_folder = derived_folder
        self._config = ModelConfig.from_json(manifest.config, family=manifest.family, path=str(folder))

    @property
    def name(self) -> str:
        """The model's name for people."""
        return self.manifest.name

    @property
    def config(self) -> ModelConfig:
        """Sizes and special ids."""
        return self._config

    @property
    def tokenizer_folder(self) -> Path:
        """The folder with config.json and the tokenizer's file."""
        return self.folder / self.manifest.data

    @property
    def parameters(self) -> int:
        """How many weights the original model has."""
        return self.manifest.parameters

    @property
    def nbytes(self) -> int:
        """The weights' size, in bytes."""
        return self._tensors.nbytes

    def get(self, name: str) -> Tensor:
        """Linear and output weights: uint8 [out, in // 64 * 34]; embedding fp16; vectors fp32. Raises KeyError."""
        return self._tensors.get(name)

    def names(self) -> frozenset[str]:
        """The authors' names of all tensors."""
        return self._tensors.names()

    def release(self, name: str) -> None:
        """Give a tensor's resident pages back to the system."""
        self._tensors.release(name)

    def verify_files(self) -> None:
        """Hash every file. Raises DamagedLowBit, naming the first one that differs."""
        verify_files(self.folder, self.manifest, full=True)

    def derived(self, tag: str) -> MappedTensors | None:
        """The layout published under ``tag`` for exactly these weights, mapped; ``None`` where there is none.

        The tag names layout and CPU features; an entry for other weights or one that was changed does not count.
        """
        try:
            entry = read_json(self._derived_folder / f"{slug(tag)}.json")
            path = self._derived_folder / Path(str(entry.get("file"))).name
            if entry.get("weights") != self._weights_id() or entry.get("tag") != tag:
                return None
            stat = path.stat()
            # A layout is quickly made again, so one that was touched since is not worth hashing.
            if [stat.st_size, stat.st_mtime_ns] != entry.get("stamp"):
                return None
            return MappedTensors.open(path)
        except (MissingFile, CheckpointError, OSError):
            return None

    def publish_derived(
        self,
        tag: str,
        specs: Mapping[str, TensorLayout],
        produce: Callable[[str], Iterable[Tensor]],
        *,
        readable: Callable[[str], bool] = lambda _: True,
        cancel: CancelToken | None = None,
        opener: Opener = open_for_writing,
    ) -> MappedTensors:
        """Write a kernel's layout beside the checkpoint, and map it.

        ``specs`` gives dtype and shape of each entry; ``produce(name)`` yields its rows in order, in pieces.
        After each entry the pages of the tensor of the same name are given back, so that the two layouts
        are never resident together. Layouts with tags that no kernel finds ``readable`` are removed.
        A process that finds the entry published meanwhile takes that one.
        Raises NotEnoughDisk, LoadCancelled; OSError where the place cannot be written.
        """
        with writer_lock(self._derived_folder, cancel=cancel):
            existing = self.derived(tag)
            if existing is not None:
                return existing
            self._clean_derived(tag, readable)
            path = self._derived_folder / f"{slug(tag)}-{secrets.token_hex(4)}.safetensors"
            try:
                self._write_derived(path, specs, produce, cancel=cancel, opener=opener)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            stamp = [path.stat().st_size, path.stat().st_mtime_ns]
            entry = {"tag": tag, "weights": self._weights_id(), "file": path.name, "stamp": stamp}
            write_json_atomic(self._derived_folder / f"{slug(tag)}.json", entry)
        return MappedTensors.open(path)

    def _write_derived(
        self,
        path: Path,
        specs: Mapping[str, TensorLayout],
        produce: Callable[[str], Iterable[Tensor]],
        *,
        cancel: CancelToken | None,
        opener: Opener,
    ) -> None:
        with contextlib.closing(StreamWriter(path, specs, opener)) as writer:
            for name in specs:
                for piece in produce(name):
                    check_cancel(cancel, self.name)
                    writer.write(piece)
                if name in self._tensors.names():
                    self.release(name)
            writer.finish()

    def _clean_derived(self, tag: str, readable: Callable[[str], bool]) -> None:
        """Remove unfinished and outdated files of this tag, and all of other weights or for no kernel of today."""
        kept = set()
        for entry_path in self._derived_folder.glob("*.json"):
            entry = _read_entry(entry_path)
            other = str(entry.get("tag"))
            if entry.get("weights") == self._weights_id() and other != tag and readable(other):
                kept |= {entry_path.name, str(entry.get("file"))}
        for path in self._derived_folder.iterdir():
            if path.suffix in (".json", ".safetensors", ".tmp") and path.name not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _weights_id(self) -> str:
        return self.manifest.data + self.manifest.source_fingerprint


def open_low_bit(path: Path, *, full_check: bool = False, env: Mapping[str, str] = os.environ) -> LowBitCheckpoint:
    """Open a low-bit folder: check manifest and files (those changed since the last check are hashed), map them.

    Raises DamagedLowBit naming the file, CheckpointError for another format, MissingFile for no manifest.
    """
    manifest = read_manifest(path)
    try:
        verify_files(path, manifest, full=full_check)
        tensors = _map(path, manifest)
    except (CheckpointError, FileNotFoundError):
        # Another process may have published a new generation and removed this one in between.
        newer = read_manifest(path)
        if newer.data == manifest.data:
            raise
        manifest = newer
        verify_files(path, manifest, full=full_check)
        tensors = _map(path, manifest)
    return LowBitCheckpoint(path, manifest, tensors, derived_folder=_derived_folder(path, manifest, env))


def _map(path: Path, manifest: Manifest) -> MappedTensors:
    names = sorted(name for name in manifest.files if name.endswith(".safetensors"))
    return MappedTensors.open(*(path / manifest.data / name for name in names))


def _derived_folder(path: Path, manifest: Manifest, env: Mapping[str, str]) -> Path:
    """Beside the checkpoint; below the cache folder where the checkpoint cannot be written (a bundled model)."""
    if (path / DERIVED).is_dir() or os.access(path, os.W_OK):
        return path / DERIVED
    return cache_root(env) / DERIVED / f"{slug(manifest.name)}-{manifest.source_fingerprint[:8]}"


def _read_entry(path: Path) -> dict[str, object]:
    try:
        return read_json(path)
    except (MissingFile, CheckpointError, OSError):
        return {}
