"""Streamed conversion of a source checkpoint to INT4: to a low-bit folder, or into memory.

The new files are written and flushed in a folder of their own; replacing the manifest then
switches to them. Killed at any moment, the old state or the new one remains. The quantiser
is handed in; this room computes no INT4 arithmetic itself.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from chatglm_backend.checkpoint.encode import SLICE_BYTES, Job, Quantize, encode, plan, stored_layout, workers
from chatglm_backend.checkpoint.generation import FILE_BYTES, TensorFiles, build_manifest, copy_small_files
from chatglm_backend.checkpoint.lock import writer_lock
from chatglm_backend.checkpoint.manifest import fsync_folder, remember_verified, write_manifest
from chatglm_backend.checkpoint.memory import MemoryCheckpoint
from chatglm_backend.checkpoint.preflight import Room
from chatglm_backend.checkpoint.progress import Progress, check_cancel, silent
from chatglm_backend.checkpoint.readers import open_source
from chatglm_backend.checkpoint.source import CheckpointFolder, fingerprint
from chatglm_backend.checkpoint.target import check_target, clean_leftovers, is_current, new_data_folder
from chatglm_backend.checkpoint.writer import Opener, open_for_writing, tensor_bytes
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import CheckpointError, ConfigError

__all__ = ["ConvertOptions", "convert", "convert_in_memory"]

_Take = Callable[[str, Tensor], None]
_BASE_MEMORY = 256 << 20


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What only tests and special callers change. ``wait_s``: how long to wait for another writer, in seconds."""

    threads: int | None = None
    slice_bytes: int = SLICE_BYTES
    file_bytes: int = FILE_BYTES
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
    Raises CheckpointError, ConfigError for a target that holds other files, NotEnoughDisk, NotEnoughMemory,
    CacheLocked, LoadCancelled.
    """
    options = options or ConvertOptions()
    if source.format == "lowbit":
        raise CheckpointError(path=source.path, reason="it is a low-bit checkpoint already")
    if target.resolve() == source.path.resolve():
        raise ConfigError(name="out", value=target, reason="it is the checkpoint that is to be converted")
    check_target(target)
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
        data = new_data_folder(target)
        try:
            with TensorFiles(data, jobs, file_bytes=options.file_bytes, opener=options.opener) as sink:
                _run(source, jobs, sink.take, quantize or _bigdl(), progress=progress, cancel=cancel, options=options)
                files = {**sink.finish(), **copy_small_files(source, data)}
            fsync_folder(data)
            check_cancel(cancel, source.name)
        except BaseException:
            shutil.rmtree(data, ignore_errors=True)
            raise
        manifest = build_manifest(source, tensors, data.name, identity, files)
        write_manifest(target, manifest)
        remember_verified(target, manifest, source=source.path.resolve())
        clean_leftovers(target)
    return target


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


def _working_memory(options: ConvertOptions) -> int:
    return _BASE_MEMORY + 2 * workers(options.threads) * options.slice_bytes


def _bigdl() -> Quantize:
    # Loads bigdl's native library, so only when something is converted.
    from chatglm_backend.int4.bigdl import quantize

    return quantize
