"""The tensors of a source checkpoint as they are stored, mapped from ``.bin`` or ``.safetensors`` files.

Pickles are read with ``weights_only``: anything but tensors is refused. Knows nothing of models.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chatglm_backend.checkpoint.mapping import DTYPES, MappedTensors
from chatglm_backend.checkpoint.source import CheckpointFolder
from chatglm_backend.checkpoint.weight_files import is_zip, read_safetensors_header
from chatglm_backend.errors import CheckpointError, DamagedFile, UnsafeCheckpoint
from chatglm_backend.sentences import Sentence


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in its file. ``mapped`` says that its pages come from the file and can be given back.

    ``data`` holds bytes, uint8 [rows, bytes of a row], where the file does not align the tensor.
    """

    name: str
    data: Tensor
    dtype: torch.dtype
    shape: tuple[int, ...]
    file: Path
    position: int
    mapped: bool

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.data.nbytes

    def rows(self, start: int = 0, end: int | None = None) -> Tensor:
        """Some rows in their own dtype, mapped; copied where the file does not align them."""
        part = self.data[start:end]
        if part.dtype == self.dtype:
            return part
        return part.clone().view(self.dtype).view(part.shape[0], *self.shape[1:])


def open_tensors(folder: CheckpointFolder) -> dict[str, StoredTensor]:
    """Map all tensors of a source checkpoint, in the order in which they lie on disk.

    Raises DamagedFile, UnsafeCheckpoint, UnsupportedQuantization or CheckpointError.
    """
    found: dict[str, StoredTensor] = {}
    for file in folder.files:
        found.update({one.name: one for one in open_file(file, len(found))})
    return found


def open_file(path: Path, first: int = 0) -> list[StoredTensor]:
    """Map the tensors of one weight file; ``first`` is the position of the first. Raises as :func:`open_tensors`."""
    return _safetensors(path, first) if path.suffix == ".safetensors" else _pickled(path, first)


def _safetensors(path: Path, first: int) -> list[StoredTensor]:
    entries = read_safetensors_header(path)
    mapped = MappedTensors({path: entries})
    order = sorted(entries, key=lambda name: entries[name].start)
    return [
        StoredTensor(
            name, mapped.get(name), DTYPES[entries[name].dtype], entries[name].shape, path, first + i, mapped=True
        )
        for i, name in enumerate(order)
    ]


def _pickled(path: Path, first: int) -> list[StoredTensor]:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CheckpointError(path=path, reason=Sentence("file.path_text")) from None
    mapped = is_zip(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise UnsafeCheckpoint(path=path) from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise DamagedFile(path=path, reason=Sentence("file.torch_failed")) from error
    if not isinstance(loaded, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in loaded.items()):
        raise UnsafeCheckpoint(path=path)
    for name, tensor in loaded.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            raise CheckpointError(path=path, reason=Sentence("file.no_values", name=name))
    return [
        StoredTensor(name, tensor.detach(), tensor.dtype, tuple(tensor.shape), path, first + i, mapped)
        for i, (name, tensor) in enumerate(loaded.items())
    ]
