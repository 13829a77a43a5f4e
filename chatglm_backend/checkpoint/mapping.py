"""Safetensors files mapped into memory: tensors without a copy, pages given back after use.

Our own reader, because it maps read-only (so pages are shared between processes and cost no
commit charge on Windows) and knows where each tensor's pages lie. Knows nothing of models.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chatglm_backend.checkpoint.weight_files import HeaderEntry, read_safetensors_header
from chatglm_backend.errors import DamagedFile, UnsupportedQuantization
from chatglm_backend.sentences import Sentence

DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "BOOL": torch.bool,
}
_MADV_WILLNEED, _MADV_DONTNEED = 3, 4


class HeldTensors:
    """Tensors by name, in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def get(self, name: str) -> Tensor:
        """The tensor of that name, as stored. Raises KeyError."""
        return self._tensors[name]

    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self._tensors)

    @property
    def nbytes(self) -> int:
        """The size of all tensors, in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def release(self, name: str) -> None:
        """Forget a tensor."""
        del self._tensors[name]


class MappedTensors(HeldTensors):
    """The tensors of one or several safetensors files, read-only (writing to one ends the process).

    A tensor keeps its file mapped for as long as it lives. One that its file does not align (old writers did
    not) is given as bytes, uint8 [rows, bytes of a row].
    """

    def __init__(self, files: Mapping[Path, Mapping[str, HeaderEntry]]) -> None:
        buffers = {
            path: _map(path, max((one.end for one in found.values()), default=1)) for path, found in files.items()
        }
        super().__init__(
            {name: _view(path, buffers[path], entry) for path, found in files.items() for name, entry in found.items()}
        )

    @staticmethod
    def open(*paths: Path) -> MappedTensors:
        """Map files after checking their headers. Raises DamagedFile."""
        return MappedTensors({path: read_safetensors_header(path) for path in paths})

    def release(self, name: str) -> None:
        """Give a tensor's pages back to the system; reading it again maps them again."""
        release_pages(self._tensors[name])


def release_pages(tensor: Tensor) -> None:
    """Drop the resident pages of a tensor that is mapped from a file and was never written to."""
    _advise(tensor, _MADV_DONTNEED)


def will_read(tensor: Tensor) -> None:
    """Start reading a mapped tensor from disk."""
    _advise(tensor, _MADV_WILLNEED)


def _advise(tensor: Tensor, advice: int) -> None:
    if not sys.platform.startswith("linux") or tensor.nbytes == 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.PAGESIZE
    start = tensor.data_ptr() // page * page
    length = tensor.data_ptr() + tensor.nbytes - start
    libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(advice))


def _map(path: Path, end: int) -> ctypes.Array[ctypes.c_ubyte]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < end:  # cut since its header was read: what lies behind would end the process
            raise DamagedFile(path=path, reason=Sentence("file.size", found=size, expected=end))
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view = np.frombuffer(mapped, dtype=np.uint8)
    # torch.frombuffer warns on read-only buffers; a ctypes array at the same address does not carry that mark.
    buffer = (ctypes.c_ubyte * size).from_address(view.ctypes.data)
    buffer._owner = view  # type: ignore[attr-defined]  # keeps the mapping alive for as long as any tensor does
    return buffer


def _view(path: Path, buffer: ctypes.Array[ctypes.c_ubyte], entry: HeaderEntry) -> Tensor:
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise UnsupportedQuantization(path=path, found=entry.dtype)
    count = math.prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=dtype)
    if entry.start % dtype.itemsize:
        size = entry.end - entry.start
        raw = torch.frombuffer(buffer, dtype=torch.uint8, count=size, offset=entry.start)
        return raw.view(entry.shape[0] if entry.shape else 1, -1)
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=entry.start).view(entry.shape)
