"""Streamed conversion of a source checkpoint to INT4: to a low-bit folder, or into memory.

The new files are written and flushed in a folder of their own; replacing the manifest then
switches to them. Killed at any moment, the old state or the new one remains. The quantiser
is handed in; this room computes no INT4 arithmetic itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor

from chatglm_backend.checkpoint.encode import SLICE_BYTES, Job, Quantize, cores, encode, plan, stored_layout
from chatglm_backend.checkpoint.files import hash_file
from chatglm_backend.checkpoint.lock import writer_lock
from chatglm_backend.checkpoint.manifest import (
    FileRecord,
    Manifest,
    fsync_folder,
    read_manifest,
    remember_verified,
    verify_files,
    write_manifest,
)
from chatglm_backend.checkpoint.preflight import Room
from chatglm_backend.checkpoint.progress import Progress, check_cancel, silent
from chatglm_backend.checkpoint.readers import SourceTensors, open_source
from chatglm_backend.checkpoint.source import CheckpointFolder, fingerprint, tokenizer_files
from chatglm_backend.checkpoint.writer import Opener, StreamWriter, TensorLayout, open_for_writing, tensor_bytes
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import CheckpointError, ConfigError, MissingFile
from chatglm_backend.models.config import ModelConfig

__all__ = ["ConvertOptions", "MemoryCheckpoint", "clean_leftovers", "convert", "convert_in_memory", "is_current"]

_Take = Callable[[str, Tensor], None]
_FILE_BYTES = 1 << 30
_DATA = "data-"
_BASE_MEMORY = 256 << 20


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What only tests and special callers change. ``wait_s``: how long to wait for another writer, in seconds."""

    threads: int | None = None
    slice_bytes: int = SLICE_BYTES
    file_bytes: int = _FILE_BYTES
    opener: Opener = open_for_writing
    room: Room = field(default_factory=Room)
    wait_s: float | None = None


def convert(
    source: CheckpointFolder,
    target: Path,
    *,
    quantize: Quantize | None = None,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    options: ConvertOptions | None = None,
) -> Path:
    """Convert ``source`` into the low-bit folder ``target``, and return ``target``.

    Does nothing when ``target`` holds a sound conversion of the same source. ``quantize`` defaults to bigdl's.
    Raises CheckpointError, NotEnoughDisk, NotEnoughMemory, CacheLocked, LoadCancelled.
    """
    options = options or ConvertOptions()
    if source.format == "lowbit":
        raise CheckpointError(path=source.path, reason="it is a low-bit checkpoint already")
    if target.resolve() == source.path.resolve():
        raise ConfigError(name="out", value=target, reason="it is the checkpoint that is to be converted")
    identity = fingerprint(source)
    with writer_lock(target, cancel=cancel, wait_s=options.wait_s):
        clean_leftovers(target)
        if is_current(target, identity):
            return target
        tensors = open_source(source)
        jobs = plan(tensors)
        need = sum(tensor_bytes(stored_layout(spec)) for spec in tensors.specs) + (16 << 20)
        options.room.need_disk(target, need)
        options.room.need_memory(_working_memory(options))
        data = target / f"{_DATA}{secrets.token_hex(4)}"
        data.mkdir()
        try:
            with _FileSink(data, jobs, options) as sink:
                _run(source, jobs, sink.take, quantize or _bigdl(), progress=progress, cancel=cancel, options=options)
                files = {**sink.finish(), **_copy_small_files(source, data)}
            fsync_folder(data)
            check_cancel(cancel, source.name)
        except BaseException:
            shutil.rmtree(data, ignore_errors=True)
            raise
        manifest = _manifest(source, tensors, data.name, identity, files)
        write_manifest(target, manifest)
        remember_verified(target, manifest, source=source.path.resolve())
        clean_leftovers(target)
    return target


class MemoryCheckpoint:
    """INT4 tensors held in memory, for runs that write nothing."""

    def __init__(self, source: CheckpointFolder, tensors: Mapping[str, Tensor]) -> None:
        self.name = source.name
        self.config: ModelConfig = source.config
        self.tokenizer_folder = source.path
        self._tensors = dict(tensors)

    @property
    def nbytes(self) -> int:
        """The weights' size, in bytes."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def get(self, name: str) -> Tensor:
        """As in a low-bit folder. Raises KeyError."""
        return self._tensors[name]

    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self._tensors)

    def derived(self, tag: str) -> None:  # noqa: ARG002
        """Nothing is kept for memory."""
        return

    def release(self, name: str) -> None:
        """Forget a tensor, once a kernel has its own layout of it."""
        del self._tensors[name]


def convert_in_memory(
    source: CheckpointFolder,
    *,
    quantize: Quantize | None = None,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    options: ConvertOptions | None = None,
) -> MemoryCheckpoint:
    """Convert without writing anything. Raises as :func:`convert` does."""
    options = options or ConvertOptions()
    tensors = open_source(source)
    layout = {spec.name: stored_layout(spec) for spec in tensors.specs}
    options.room.need_memory(sum(map(tensor_bytes, layout.values())) + _working_memory(options))
    made = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in layout.items()}
    filled = dict.fromkeys(made, 0)

    def take(name: str, piece: Tensor) -> None:
        start = filled[name]
        made[name][start : start + piece.shape[0]] = piece
        filled[name] = start + piece.shape[0]

    _run(source, plan(tensors), take, quantize or _bigdl(), progress=progress, cancel=cancel, options=options)
    return MemoryCheckpoint(source, made)


def is_current(target: Path, identity: str) -> bool:
    """Whether ``target`` holds a sound conversion of the source with this fingerprint."""
    try:
        manifest = read_manifest(target)
        if manifest.source_fingerprint != identity:
            return False
        verify_files(target, manifest, full=False)
    except (CheckpointError, MissingFile, OSError):
        return False
    return True


def clean_leftovers(target: Path) -> None:
    """Remove what ended conversions left behind. Hold the lock; what cannot be removed now is left for later."""
    try:
        current = read_manifest(target).data
    except (CheckpointError, MissingFile):
        current = None
    for path in target.iterdir():
        if path.is_dir() and path.name.startswith(_DATA) and path.name != current and current is not None:
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == ".tmp":
            with contextlib.suppress(OSError):
                path.unlink()
    if current is None and not (target / "manifest.json").exists():
        for path in target.glob(f"{_DATA}*"):
            shutil.rmtree(path, ignore_errors=True)


def _run(
    source: CheckpointFolder,
    jobs: tuple[Job, ...],
    take: _Take,
    quantize: Quantize,
    *,
    progress: Progress,
    cancel: CancelToken | None,
    options: ConvertOptions,
) -> None:
    total, done = sum(job.nbytes for job in jobs), 0
    progress(LoadProgress("convert", 0, total))
    with contextlib.closing(
        encode(jobs, quantize, threads=options.threads, slice_bytes=options.slice_bytes)
    ) as results:
        for encoded in results:
            check_cancel(cancel, source.name)
            for name, piece in encoded.pieces:
                take(name, piece)
            done += encoded.source_bytes
            progress(LoadProgress("convert", done, total))


class _FileSink:
    """Spreads tensors over files: vectors in one, matrices in files of about 1 GiB, a tied second use in its own."""

    def __init__(self, folder: Path, jobs: tuple[Job, ...], options: ConvertOptions) -> None:
        self._folder = folder
        self._opener = options.opener
        self._layouts = _assign(jobs, options.file_bytes)
        self._file_of = {name: file for file, layout in self._layouts.items() for name in layout}
        self._left = {file: sum(map(tensor_bytes, layout.values())) for file, layout in self._layouts.items()}
        self._writers: dict[str, StreamWriter] = {}
        self._records: dict[str, FileRecord] = {}

    def __enter__(self) -> _FileSink:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def take(self, name: str, piece: Tensor) -> None:
        """Write the next rows of a tensor; a file is made durable with its last row."""
        file = self._file_of[name]
        if file not in self._writers:
            self._writers[file] = StreamWriter(self._folder / file, self._layouts[file], self._opener)
        self._writers[file].write(piece)
        self._left[file] -= piece.nbytes
        if not self._left[file]:
            self._records[file] = self._writers[file].finish()

    def finish(self) -> dict[str, FileRecord]:
        """The records of all files. Raises ValueError where rows are missing."""
        missing = set(self._layouts) - set(self._records)
        if missing:
            raise ValueError(f"unfinished: {sorted(missing)}")
        return self._records


def _assign(jobs: tuple[Job, ...], file_bytes: int) -> dict[str, dict[str, TensorLayout]]:
    files: dict[str, dict[str, TensorLayout]] = {}
    second: dict[str, dict[str, TensorLayout]] = {}
    number, size = 1, 0
    for job in jobs:
        spec = job.targets[0]
        layout = stored_layout(spec)
        if spec.kind == "vector":
            files.setdefault("vectors.safetensors", {})[spec.name] = layout
        else:
            if size and size + tensor_bytes(layout) > file_bytes:
                number, size = number + 1, 0
            size += tensor_bytes(layout)
            files.setdefault(f"weights-{number:05}.safetensors", {})[spec.name] = layout
        for extra in job.targets[1:]:
            second[f"output-{len(second) + 1:05}.safetensors"] = {extra.name: stored_layout(extra)}
    return {**files, **second}


def _copy_small_files(source: CheckpointFolder, data: Path) -> dict[str, FileRecord]:
    records = {}
    config = data / "config.json"
    config.write_text(json.dumps(source.config_json, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    copies = [config]
    for file in tokenizer_files(source.path):
        copies.append(data / file.name)
        shutil.copyfile(file, copies[-1])
    for file in copies:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
        records[file.name] = FileRecord(file.stat().st_size, hash_file(file))
    return records


def _manifest(
    source: CheckpointFolder, tensors: SourceTensors, data: str, identity: str, files: Mapping[str, FileRecord]
) -> Manifest:
    config = source.config
    return Manifest(
        name=source.name,
        family=source.family,
        data=data,
        parameters=_parameters(tensors),
        source_fingerprint=identity,
        config=source.config_json,
        dims=json.loads(json.dumps(asdict(config))),
        versions={
            "python": platform.python_version(),
            **{name: _version(name) for name in ("chatglm-cpu", "torch", "bigdl-llm", "safetensors")},
        },
        files=files,
    )


def _parameters(tensors: SourceTensors) -> int:
    """The weights of the original model, a tied tensor counted once."""
    counted: dict[str, int] = {}
    for spec in tensors.specs:
        size = 1
        for n in spec.shape:
            size *= n
        counted[tensors.get(spec.name).name] = size
    return sum(counted.values())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _working_memory(options: ConvertOptions) -> int:
    return _BASE_MEMORY + 2 * (options.threads or cores()) * options.slice_bytes


def _bigdl() -> Quantize:
    # Loads bigdl's native library, so only when something is converted.
    from chatglm_backend.int4.bigdl import quantize

    return quantize
