"""Layouts that kernels keep beside a low-bit checkpoint: published once, found by tag, for exactly its weights.

What a layout means is its kernel's business.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from torch import Tensor

from chatglm_backend.checkpoint.lock import writer_lock
from chatglm_backend.checkpoint.manifest import read_noted, write_json_atomic
from chatglm_backend.checkpoint.mapping import MappedTensors
from chatglm_backend.checkpoint.places import slug
from chatglm_backend.checkpoint.progress import check_cancel
from chatglm_backend.checkpoint.sums import tensor_sums
from chatglm_backend.checkpoint.writer import Opener, StreamWriter, TensorLayout, open_for_writing
from chatglm_backend.core import CancelToken
from chatglm_backend.errors import CheckpointError

DERIVED = "derived"
_Read = tuple[list[int], MappedTensors, dict[str, str]]


class DerivedLayouts:
    """The layouts of one checkpoint's ``tensors``, known by ``weights``, in one folder. A tag names layout and CPU."""

    def __init__(self, folder: Path, name: str, weights: str, tensors: MappedTensors) -> None:
        self._folder = folder
        self._name = name
        self._weights = weights
        self._tensors = tensors
        self._ahead: dict[Path, Future[_Read]] = {}
        self.opener: Opener = open_for_writing

    def read_ahead(self) -> None:
        """Begin to sum up what is kept for these weights, in a thread: who finds it waits for what is left of that."""
        kept = [read_noted(path) for path in self._folder.glob("*.json")]
        files = [self._folder / Path(str(one.get("file"))).name for one in kept if one.get("weights") == self._weights]
        pool = ThreadPoolExecutor(1, "sums")
        self._ahead = {path: pool.submit(_read, path) for path in files}
        pool.shutdown(wait=False)

    def find(self, tag: str) -> MappedTensors | None:
        """The layout published under ``tag`` for these weights, mapped; ``None`` for none, or a changed byte."""
        ahead, self._ahead = self._ahead, {}  # what no kernel wants is not kept in memory
        try:
            entry = read_noted(self._folder / f"{slug(tag)}.json")
            if entry.get("weights") != self._weights or entry.get("tag") != tag:
                return None
            path = self._folder / Path(str(entry.get("file"))).name
            # A layout is quickly made again, so one that was touched since is not worth hashing.
            stamp, found, sums = ahead[path].result() if path in ahead else _read(path)
            return found if (stamp, sums) == (entry.get("stamp"), entry.get("sums")) else None
        except (CheckpointError, OSError, ValueError):  # a name that no file can have
            return None

    def publish(
        self,
        tag: str,
        specs: Mapping[str, TensorLayout],
        produce: Callable[[str], Iterable[Tensor]],
        *,
        readable: Callable[[str], bool] = lambda _: True,
        cancel: CancelToken | None = None,
    ) -> MappedTensors:
        """Write a kernel's layout, and map it.

        ``specs`` gives dtype and shape of each entry; ``produce(name)`` yields its rows in order, in pieces.
        After each entry the pages of the tensor of the same name are given back, so that the two layouts
        are never resident together. Layouts with tags that no kernel finds ``readable`` are removed.
        A process that finds the entry published meanwhile takes that one.
        Raises NotEnoughDisk, LoadCancelled; OSError where the place cannot be written.
        """
        with writer_lock(self._folder, cancel=cancel):
            existing = self.find(tag)
            if existing is not None:
                return existing
            self._clean(tag, readable)
            path = self._folder / f"{slug(tag)}-{secrets.token_hex(4)}.safetensors"
            try:
                with contextlib.closing(StreamWriter(path, specs, self.opener)) as writer:
                    for name in specs:
                        for piece in produce(name):
                            check_cancel(cancel, self._name)
                            writer.write(piece)
                        if name in self._tensors.names():
                            self._tensors.release(name)
                    writer.finish()
            except BaseException:
                path.unlink(missing_ok=True)
                raise
            made = MappedTensors.open(path)
            entry = {"tag": tag, "weights": self._weights, "file": path.name, "stamp": _stamp(path)}
            write_json_atomic(self._folder / f"{slug(tag)}.json", {**entry, "sums": tensor_sums(made)})
        return made

    def _clean(self, tag: str, readable: Callable[[str], bool]) -> None:
        """Remove unfinished and outdated files of this tag, and all of other weights or for no kernel of today."""
        kept = set()
        for entry_path in self._folder.glob("*.json"):
            entry = read_noted(entry_path)
            other = str(entry.get("tag"))
            if entry.get("weights") == self._weights and other != tag and readable(other):
                kept |= {entry_path.name, str(entry.get("file"))}
        for path in self._folder.iterdir():
            if path.suffix in (".json", ".safetensors", ".tmp") and path.name not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()


def _read(path: Path) -> _Read:
    return _stamp(path), (found := MappedTensors.open(path)), tensor_sums(found)


def _stamp(path: Path) -> list[int]:
    return [path.stat().st_size, path.stat().st_mtime_ns]
