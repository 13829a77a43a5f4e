"""Writing a safetensors file as a stream: header first, then rows in order, hashed on the way.

Never holds more than the piece being written. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from chatglm_backend.checkpoint.manifest import FileRecord
from chatglm_backend.checkpoint.mapping import DTYPES
from chatglm_backend.errors import CheckpointError, NotEnoughDisk
from chatglm_backend.sentences import Sentence
from chatglm_backend.units import size

TensorLayout = tuple[torch.dtype, tuple[int, ...]]
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 64


Opener = Callable[[Path], BinaryIO]


def open_for_writing(path: Path) -> BinaryIO:
    """Open a new file."""
    return path.open("xb")


@contextlib.contextmanager
def disk_named(folder: Path, left: int = 0) -> Iterator[None]:
    """A full disk is a NotEnoughDisk with the bytes that are ``left`` to write; a locked one a CheckpointError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR):
            raise CheckpointError(path=folder, reason=Sentence("folder.not_writable")) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise NotEnoughDisk(path=folder, free=size(0), needed=size(max(left, 100_000_000))) from error


def tensor_bytes(layout: TensorLayout) -> int:
    """The size of a tensor of that dtype and shape, in bytes."""
    return layout[0].itemsize * math.prod(layout[1])


class StreamWriter:
    """One safetensors file. ``write`` takes pieces in the order of ``layout``; ``finish`` makes the file durable.

    ``left`` counts the bytes still to come.
    """

    def __init__(self, path: Path, layout: Mapping[str, TensorLayout], opener: Opener = open_for_writing) -> None:
        self.path = path
        self.left = sum(map(tensor_bytes, layout.values()))
        self._digest = hashlib.sha256()
        self._size = 0
        self._file = opener(path)
        self._put(_header(layout))

    def write(self, piece: Tensor) -> None:
        """Append a contiguous piece. Raises NotEnoughDisk when the disk is full."""
        self.left -= piece.nbytes
        raw = piece.contiguous().view(-1).view(torch.uint8).numpy()
        self._put(raw.data)

    def finish(self) -> FileRecord:
        """Flush to disk and close. Raises ValueError when pieces are missing."""
        if self.left:
            raise ValueError(f"{self.path.name}: {self.left} bytes were never written")
        self._guard(self._sync)
        self._file.close()
        return FileRecord(self._size, self._digest.hexdigest())

    def close(self) -> None:
        """Close the file, finished or not."""
        with contextlib.suppress(OSError):  # of a full disk, for what is not wanted any more
            self._file.close()

    def _put(self, data: bytes | memoryview) -> None:
        self._guard(lambda: self._file.write(data))
        self._digest.update(data)
        self._size += len(data)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _guard(self, action: Callable[[], object]) -> None:
        with disk_named(self.path.parent, self.left):
            action()


def _header(layout: Mapping[str, TensorLayout]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, item in layout.items():
        end = offset + tensor_bytes(item)
        entries[name] = {"dtype": _NAMES[item[0]], "shape": list(item[1]), "data_offsets": [offset, end]}
        offset = end
    raw = json.dumps(entries, ensure_ascii=False).encode()
    raw += b" " * (-(len(raw) + 8) % _ALIGNMENT)
    return struct.pack("<Q", len(raw)) + raw
