"""The files that hold a folder's weights: which they are, whether they can be whole, and a hash of each.

Reads headers only, a few kilobytes of each file, and runs nothing. Knows nothing of tensors' meaning.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickletools
import re
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatglm_backend.errors import CheckpointError, DamagedFile, LfsPointerFile, MissingFile
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import is_lfs_pointer, parse_json, read_json

WeightFormat = Literal["bin", "safetensors"]

# Format, stem and suffix of the names, in order of preference.
_KINDS: tuple[tuple[WeightFormat, str, str], ...] = (
    ("safetensors", "model", ".safetensors"),
    ("bin", "pytorch_model", ".bin"),
)
_MAX_HEADER = 100_000_000
_MAX_PICKLE = 4_000_000
_SAMPLE = 4096
_SAMPLES = 16
_SMALL_FILE = 64 << 20
_BITS = {"BOOL": 8, **{f"{kind}{bits}": bits for kind in "IUF" for bits in (8, 16, 32, 64)}}
_BITS |= {"BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8}
_TEXT = ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")


@dataclass(frozen=True, slots=True)
class HeaderEntry:
    """One tensor in a safetensors file: ``start`` and ``end`` are byte offsets in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """A complete set of files. ``passed_over`` says why a better-liked set was not taken."""

    format: WeightFormat
    paths: tuple[Path, ...]
    passed_over: CheckpointError | None = None

    def names(self) -> frozenset[str]:
        """The tensors that the files say they hold, read without loading one; empty where that cannot be told."""
        return frozenset().union(*map(tensor_names, self.paths))


def find_weights(folder: Path) -> WeightFiles:
    """The first complete set of weight files in a folder; raises the first set's error where none is complete.

    Raises MissingFile, LfsPointerFile, or DamagedFile for a file that is empty or cut short.
    """
    first_error: CheckpointError | None = None
    for weight_format, stem, suffix in _KINDS:
        try:
            paths = _listed(folder, stem, suffix)
            for path in paths:
                check_weight_file(path)
        except CheckpointError as error:
            first_error = first_error or error
            continue
        if paths:
            return WeightFiles(weight_format, paths, first_error)
    raise first_error or MissingFile(path=folder / "pytorch_model.bin")


def read_safetensors_header(path: Path) -> dict[str, HeaderEntry]:
    """Read where each tensor lies. Raises DamagedFile where the header and the file's size disagree."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise DamagedFile(path=path, reason=Sentence("file.too_short"))
        (length,) = struct.unpack("<Q", prefix)
        if not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise DamagedFile(path=path, reason=Sentence("file.header_cut"))
        raw = file.read(length)
    try:
        header = parse_json(raw)
        if not isinstance(header, dict):
            raise TypeError
        entries = {name: _header_entry(value, 8 + length) for name, value in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):
        raise DamagedFile(path=path, reason=Sentence("file.header_damaged")) from None
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.start, entry.end)):
        if entry.start != end:  # tensors lie one behind the other: no byte is two tensors', or none's
            raise DamagedFile(path=path, reason=Sentence("file.header_damaged"))
        end = entry.end
    if end != size:
        raise DamagedFile(path=path, reason=Sentence("file.size", found=size, expected=end))
    return entries


def is_zip(path: Path) -> bool:
    """Whether PyTorch can map the file: those from before version 1.6 are read into memory instead."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def hash_file(path: Path) -> str:
    """The SHA-256 of a whole file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(4 << 20):
            digest.update(piece)
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


def _listed(folder: Path, stem: str, suffix: str) -> tuple[Path, ...]:
    """The files of one kind that should be there: by the index, else the single one, else the numbered ones."""
    index = folder / f"{stem}{suffix}.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(v, str) for v in names.values()):
            raise DamagedFile(path=index, reason=Sentence("file.no_weight_map"))
        listed = sorted(set(names.values()))
        if any(Path(name).name != name or "\\" in name for name in listed):
            raise DamagedFile(path=index, reason=Sentence("file.outside"))
        return tuple(folder / name for name in listed)
    if (folder / f"{stem}{suffix}").is_file():
        return (folder / f"{stem}{suffix}",)
    pattern = re.compile(re.escape(stem) + r"-(\d{5})-of-(\d{5})" + re.escape(suffix))
    found = {int(m[1]): (file, int(m[2])) for file in folder.iterdir() if (m := pattern.fullmatch(file.name))}
    total = max((count for _, count in found.values()), default=0)
    return tuple(
        found[i][0] if i in found else folder / f"{stem}-{i:05}-of-{total:05}{suffix}" for i in range(1, total + 1)
    )


def check_weight_file(path: Path) -> None:
    """See from its outside whether a weight file can be whole.

    Raises MissingFile, LfsPointerFile, or DamagedFile for one that is empty or cut short.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - an index may name what no file can be called, which raises there
        raise MissingFile(path=path)
    if path.stat().st_size == 0:
        raise DamagedFile(path=path, reason=Sentence("file.empty"))
    if is_lfs_pointer(path):
        raise LfsPointerFile(path=path)
    if path.suffix == ".safetensors":
        read_safetensors_header(path)
        return
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" and not zipfile.is_zipfile(path):
        raise DamagedFile(path=path, reason=Sentence("file.cut"))
    if start not in (b"PK", b"\x80\x02"):
        raise DamagedFile(path=path, reason=Sentence("file.not_pytorch"))


def _header_entry(value: dict[str, object], base: int) -> HeaderEntry:
    dtype, shape, offsets = str(value["dtype"]), value["shape"], value["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise TypeError
    dims = tuple(int(n) for n in shape)
    start, end = (int(n) for n in offsets)
    if start < 0 or any(n < 0 for n in dims) or end - start != math.prod(dims) * _BITS[dtype] // 8:
        raise ValueError
    return HeaderEntry(dtype, dims, base + start, base + end)


def tensor_names(path: Path) -> frozenset[str]:
    """The names of a file's tensors. A pickle is taken apart, never run: its texts, the names among them."""
    if path.suffix == ".safetensors":
        return frozenset(read_safetensors_header(path))
    try:
        with zipfile.ZipFile(path) as archive:
            entry = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            with archive.open(entry) as opened:
                data = opened.read(_MAX_PICKLE)
        return frozenset(str(text) for code, text, _ in pickletools.genops(data) if code.name in _TEXT)
    except (zipfile.BadZipFile, StopIteration, ValueError, RuntimeError, NotImplementedError, OSError):
        return frozenset()
