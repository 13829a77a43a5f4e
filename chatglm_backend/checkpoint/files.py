"""Cheap checks of weight files, with errors that name the file.

Reads headers only: a few kilobytes of each file. Knows nothing of tensors' meaning.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chatglm_backend.errors import DamagedFile, LfsPointerFile, MissingFile
from chatglm_backend.textfile import is_lfs_pointer, parse_json

__all__ = [
    "HeaderEntry",
    "check_weight_file",
    "file_fingerprint",
    "hash_file",
    "read_safetensors_header",
]

_MAX_HEADER = 100_000_000
_SAMPLE = 4096
_SAMPLES = 16
_SMALL_FILE = 64 << 20

DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "BOOL": 1}


@dataclass(frozen=True, slots=True)
class HeaderEntry:
    """One tensor in a safetensors file: ``start`` and ``end`` are byte offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def check_weight_file(path: Path) -> None:
    """See from its outside whether a weight file can be whole.

    Raises MissingFile, LfsPointerFile, or DamagedFile for one that is empty or cut short.
    """
    if not path.is_file():
        raise MissingFile(path=path)
    if path.stat().st_size == 0:
        raise DamagedFile(path=path, reason="it is empty")
    if is_lfs_pointer(path):
        raise LfsPointerFile(path=path)
    if path.suffix == ".safetensors":
        read_safetensors_header(path)
        return
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" and not zipfile.is_zipfile(path):
        raise DamagedFile(path=path, reason="its end is missing")
    if start not in (b"PK", b"\x80\x02"):
        raise DamagedFile(path=path, reason="it is not a PyTorch file")


def read_safetensors_header(path: Path) -> dict[str, HeaderEntry]:
    """Read where each tensor lies. Raises DamagedFile where the header and the file's size disagree."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise DamagedFile(path=path, reason="it is too short")
        (length,) = struct.unpack("<Q", prefix)
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise DamagedFile(path=path, reason="its header is cut off")
        raw = file.read(length)
    try:
        header = parse_json(raw)
        if not isinstance(header, dict):
            raise TypeError
        entries = {name: _header_entry(value, 8 + length) for name, value in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedFile(path=path, reason="its header cannot be read") from None
    needed = max((entry.end for entry in entries.values()), default=8 + length)
    if needed != size:
        raise DamagedFile(path=path, reason=f"it has {size} bytes instead of {needed}")
    return entries


def _header_entry(value: dict[str, object], base: int) -> HeaderEntry:
    dtype, shape, offsets = str(value["dtype"]), value["shape"], value["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise TypeError
    dims = tuple(int(n) for n in shape)
    start, end = (int(n) for n in offsets)
    count = 1
    for n in dims:
        count *= n
    if start < 0 or any(n < 0 for n in dims) or end - start != count * DTYPE_BYTES.get(dtype, -1):
        raise ValueError
    return HeaderEntry(dtype, dims, base + start, base + end)


def hash_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """The SHA-256 of a whole file, in hexadecimal; ``on_bytes`` hears of every piece read."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(4 << 20):
            digest.update(piece)
            if on_bytes:
                on_bytes(len(piece))
    return digest.hexdigest()


def file_fingerprint(path: Path) -> str:
    """A hash that changes with a weight file, never with its date: of all of a small file, of samples of a large one.

    Samples are its start, its end, some blocks between, and in a safetensors file two of every tensor. The end of a
    PyTorch file is its table of contents with a checksum of every tensor.
    """
    size = path.stat().st_size
    if size <= _SMALL_FILE:
        return hash_file(path)
    places = [size * index // _SAMPLES for index in range(_SAMPLES)]
    if path.suffix == ".safetensors":
        entries = read_safetensors_header(path).values()
        places += [place for entry in entries for place in (entry.start, (entry.start + entry.end) // 2)]
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb", buffering=0) as file:
        digest.update(file.read(64 << 10))
        for place in sorted(places):
            file.seek(place)
            digest.update(file.read(_SAMPLE))
        file.seek(-min(size, 256 << 10), os.SEEK_END)
        digest.update(file.read())
    return digest.hexdigest()
