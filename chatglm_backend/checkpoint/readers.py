"""The tensors of a source checkpoint, mapped from ``.bin`` or ``.safetensors`` files, checked against its config.

Pickles are read with ``weights_only``: anything but tensors is refused. Knows no INT4 format
but where THUDM's scales stand.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chatglm_backend.checkpoint.files import check_weight_file, read_safetensors_header
from chatglm_backend.checkpoint.mapping import MappedTensors
from chatglm_backend.checkpoint.source import CheckpointFolder, weight_files
from chatglm_backend.checkpoint.thudm import BLOCK, dequantize_rows
from chatglm_backend.errors import (
    CheckpointError,
    DamagedFile,
    UnsafeCheckpoint,
    UnsupportedQuantization,
    WrongShape,
)
from chatglm_backend.models.layout import TensorSpec, tensor_specs

__all__ = ["SourceTensor", "SourceTensors", "open_source", "read_dense"]

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """One tensor as stored. With ``scales`` [rows], ``data`` holds THUDM's nibbles, int8 [rows, in/2].

    ``mapped`` says that the pages come from the file and can be given back.
    """

    name: str
    data: Tensor
    scales: Tensor | None
    file: Path
    position: int
    mapped: bool


class SourceTensors:
    """Everything that the config asks for, found and of the right shape."""

    def __init__(self, tensors: Mapping[str, SourceTensor], specs: tuple[TensorSpec, ...]) -> None:
        self._tensors = tensors
        self.specs = specs

    def get(self, name: str) -> SourceTensor:
        """The stored tensor for a spec's name; a tied output layer gives the embedding."""
        return self._tensors[name]


def open_source(folder: CheckpointFolder) -> SourceTensors:
    """Map a source checkpoint's files and check every tensor that its config asks for.

    Raises DamagedFile, UnsafeCheckpoint, WrongShape, UnsupportedQuantization or CheckpointError.
    """
    files = weight_files(folder)
    stored: dict[str, tuple[Tensor, Path]] = {}
    mapped: set[str] = set()
    for file in files:
        check_weight_file(file)
        loaded = _read_safetensors(file) if folder.format == "safetensors" else _read_bin(file)
        if file.suffix == ".safetensors" or _is_zip(file):
            mapped.update(loaded)
        stored.update({name: (tensor, file) for name, tensor in loaded.items()})
    order = {name: position for position, name in enumerate(stored)}
    specs = tensor_specs(folder.config)
    tied = _tied_names(specs) if folder.family == "chatglm" else {}
    found: dict[str, SourceTensor] = {}
    for spec in specs:
        name = next((n for n in tied.get(spec.name, (spec.name,)) if n in stored), None)
        if name is None:
            raise CheckpointError(path=folder.path, reason=f"the tensor {spec.name} is missing")
        data, file = stored[name]
        scales = stored.get(f"{name}_scale")
        tensor = SourceTensor(name, data, scales[0] if scales else None, file, order[name], name in mapped)
        found[spec.name] = _checked(spec, tensor)
    return SourceTensors(found, specs)


def read_dense(folder: CheckpointFolder) -> Mapping[str, Tensor]:
    """All tensors by the authors' names, for fp32 checks: mapped as stored, THUDM's 4-bit ones dequantised when read.

    Raises as :func:`open_source` does; a low-bit checkpoint has no dense weights.
    """
    if folder.format == "lowbit":
        raise CheckpointError(
            path=folder.path, reason="it holds INT4 weights; fp32 needs the original checkpoint (or choose int4)"
        )
    return _Dense(open_source(folder))


class _Dense(Mapping[str, Tensor]):
    def __init__(self, source: SourceTensors) -> None:
        self._source = source
        self._names = tuple(spec.name for spec in source.specs)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._source.get(name)
        return tensor.data if tensor.scales is None else dequantize_rows(tensor.data, tensor.scales)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _tied_names(specs: tuple[TensorSpec, ...]) -> dict[str, tuple[str, ...]]:
    embedding = next(spec.name for spec in specs if spec.kind == "embedding")
    output = next(spec.name for spec in specs if spec.kind == "output")
    return {embedding: (embedding, output), output: (embedding, output)}


def _checked(spec: TensorSpec, tensor: SourceTensor) -> SourceTensor:
    expected = spec.shape
    if tensor.scales is not None:
        if spec.kind != "linear" or tensor.data.dtype not in (torch.int8, torch.uint8):
            raise UnsupportedQuantization(path=tensor.file, found=f"{tensor.data.dtype} with scales in {spec.name}")
        expected = (spec.shape[0], spec.shape[1] // 2)
        _check_scales(spec, tensor, tensor.scales)
    elif tensor.data.dtype not in _FLOATS:
        raise UnsupportedQuantization(path=tensor.file, found=f"{tensor.data.dtype} in {spec.name}")
    if tuple(tensor.data.shape) != expected:
        raise WrongShape(tensor=spec.name, path=tensor.file, found=tuple(tensor.data.shape), expected=expected)
    if spec.kind in ("linear", "output") and spec.shape[1] % BLOCK:
        raise CheckpointError(path=tensor.file, reason=f"{spec.name} has rows that are no multiple of {BLOCK}")
    return tensor


def _check_scales(spec: TensorSpec, tensor: SourceTensor, scales: Tensor) -> None:
    if scales.numel() != spec.shape[0]:
        raise WrongShape(
            tensor=f"{spec.name}_scale", path=tensor.file, found=tuple(scales.shape), expected=(spec.shape[0],)
        )
    if not torch.equal(scales.to(torch.float16).to(scales.dtype), scales):
        raise UnsupportedQuantization(path=tensor.file, found=f"4-bit integers with {scales.dtype} scales")


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    entries = read_safetensors_header(path)
    mapped = MappedTensors({path: entries})
    return {name: mapped.get(name) for name in sorted(entries, key=lambda n: entries[n].start)}


def _read_bin(path: Path) -> dict[str, Tensor]:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(
            path=path, reason="PyTorch reads no file whose path is no valid text; rename it"
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(path=path) from error
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, ImportError) as error:
        raise DamagedFile(path=path, reason="PyTorch cannot read it") from error
    if not isinstance(loaded, dict):
        raise UnsafeCheckpoint(path=path)
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()):
        raise UnsafeCheckpoint(path=path)
    return {name: tensor.detach() for name, tensor in loaded.items()}


def _is_zip(path: Path) -> bool:
    """Whether PyTorch can map the file: those from before version 1.6 are read into memory instead."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"
