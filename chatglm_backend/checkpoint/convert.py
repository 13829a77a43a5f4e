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

from chatglm_backend.checkpoint.adapters import PREFIX_ROWS
from chatglm_backend.checkpoint.encode import SLICE_BYTES, Merge, Quantize, encode, workers
from chatglm_backend.checkpoint.generation import (
    FILE_BYTES,
    TensorFiles,
    build_manifest,
    copy_small_files,
    fingerprint_of,
)
from chatglm_backend.checkpoint.lock import writer_lock
from chatglm_backend.checkpoint.lowbit import Checkpoint
from chatglm_backend.checkpoint.manifest import fsync_folder, remember_verified, write_manifest
from chatglm_backend.checkpoint.mapping import HeldTensors
from chatglm_backend.checkpoint.plan import Plan, make_plan
from chatglm_backend.checkpoint.preflight import Room
from chatglm_backend.checkpoint.progress import Progress, check_cancel, silent
from chatglm_backend.checkpoint.source import CheckpointFolder
from chatglm_backend.checkpoint.target import check_target, clean_leftovers, is_current, new_data_folder
from chatglm_backend.checkpoint.writer import Opener, disk_named, open_for_writing
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import CheckpointError, ConfigError
from chatglm_backend.sentences import Sentence

_BASE_MEMORY = 256 << 20
_SMALL_FILES = 16 << 20


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """What only tests and special callers change."""

    threads: int | None = None
    slice_bytes: int = SLICE_BYTES
    file_bytes: int = FILE_BYTES
    opener: Opener = open_for_writing
    room: Room = field(default_factory=Room)

    @property
    def memory(self) -> int:
        """What a conversion needs besides its result, in bytes."""
        return _BASE_MEMORY + 2 * workers(self.threads) * self.slice_bytes


DEFAULTS = ConvertOptions()


def convert(
    source: CheckpointFolder,
    target: Path,
    *,
    merge: Merge | None = None,
    quantize: Quantize | None = None,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    options: ConvertOptions = DEFAULTS,
) -> Path:
    """Convert ``source``, with ``merge`` added to its weights, into the low-bit folder ``target``; return ``target``.

    Does nothing when ``target`` holds a sound conversion of the same. ``quantize`` defaults to bigdl's.
    Raises CheckpointError, ConfigError for a target that holds other files, NotEnoughDisk, NotEnoughMemory,
    CacheLocked, LoadCancelled.
    """
    if source.format == "lowbit":
        raise CheckpointError(path=source.path, reason=Sentence("folder.low_bit_already"))
    if target.resolve() == source.path.resolve():
        raise ConfigError(name="out", value=target, reason=Sentence("folder.same"))
    check_target(target)
    with disk_named(target), writer_lock(target, cancel=cancel):
        clean_leftovers(target)
        if is_current(target, fingerprint_of(source, merge)):
            return target
        plan = make_plan(source)
        options.room.need_disk(target, plan.nbytes + _SMALL_FILES)
        options.room.need_memory(options.memory)
        data = new_data_folder(target)
        try:
            with TensorFiles(data, plan, file_bytes=options.file_bytes, opener=options.opener) as files:
                _carry_out(plan, files.take, source.name, quantize, progress, cancel, options, merge)
                records = {**files.finish(), **copy_small_files(source, data)}
            fsync_folder(data)
            check_cancel(cancel, source.name)
        except BaseException:
            shutil.rmtree(data, ignore_errors=True)
            raise
        manifest = build_manifest(source, data.name, records, merge)
        try:
            write_manifest(target, manifest)
        except BaseException:
            clean_leftovers(target)  # of which the data is one, unless the manifest stands
            raise
        remember_verified(target, manifest, source=source.path.resolve())
        clean_leftovers(target)
    return target


def convert_in_memory(
    source: CheckpointFolder,
    *,
    quantize: Quantize | None = None,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    options: ConvertOptions = DEFAULTS,
) -> Checkpoint:
    """Convert without writing anything. Raises as :func:`convert` does."""
    plan = make_plan(source)
    options.room.need_memory(plan.nbytes + options.memory)
    made = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in plan.layouts.items()}
    filled = dict.fromkeys(made, 0)

    def take(name: str, piece: Tensor) -> None:
        start = filled[name]
        filled[name] += piece.shape[0]
        made[name][start : filled[name]] = piece

    _carry_out(plan, take, source.name, quantize, progress, cancel, options)
    return Checkpoint(source.name, source.config, source.path, HeldTensors(made))


def _carry_out(
    plan: Plan,
    take: Callable[[str, Tensor], None],
    name: str,
    quantize: Quantize | None,
    progress: Progress,
    cancel: CancelToken | None,
    options: ConvertOptions,
    merge: Merge | None = None,
) -> None:
    if quantize is None:
        # Loads bigdl's native library, so only when something is converted.
        from chatglm_backend.int4 import bigdl

        quantize = bigdl.quantize
    total, done = sum(job.nbytes for job in plan.jobs), 0
    progress(LoadProgress("convert", 0, total))
    results = encode(plan, quantize, merge, threads=options.threads, slice_bytes=options.slice_bytes)
    with contextlib.closing(results):
        for encoded in results:
            check_cancel(cancel, name)
            for target, piece in encoded.pieces:
                take(target, piece)
            done += encoded.source_bytes
            progress(LoadProgress("convert", done, total))
    for part in plan.prefix.parts() if plan.prefix else ():
        check_cancel(cancel, name)
        take(PREFIX_ROWS, part[None])
