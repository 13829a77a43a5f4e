"""Getting a model ready, from what the user typed to mapped INT4 tensors: find, fetch, check, convert, map.

The composition of this room, and the one place that decides to rebuild a damaged checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from chatglm_backend.checkpoint.cache import low_bit_folder
from chatglm_backend.checkpoint.convert import ConvertOptions, convert, convert_in_memory
from chatglm_backend.checkpoint.encode import Quantize
from chatglm_backend.checkpoint.lowbit import Checkpoint, LowBitCheckpoint, open_low_bit
from chatglm_backend.checkpoint.manifest import MANIFEST, read_local, read_manifest
from chatglm_backend.checkpoint.places import cache_root
from chatglm_backend.checkpoint.progress import Note, Progress, silent
from chatglm_backend.checkpoint.resolve import resolve
from chatglm_backend.checkpoint.source import CheckpointFolder, fingerprint, inspect_folder
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import CheckpointError, ModelError
from chatglm_backend.models.config import Family
from chatglm_backend.tokenizers.base import load_tokenizer

__all__ = ["prepare", "prepare_folder"]


def prepare(
    model: str,
    *,
    quantize: Quantize | None = None,
    allow_download: bool = False,
    use_cache: bool = True,
    family: Family | None = None,
    revision: str | None = None,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    note: Note = silent,
    env: Mapping[str, str] = os.environ,
    options: ConvertOptions | None = None,
) -> Checkpoint:
    """Return the model's INT4 tensors: mapped from the cache, after converting where need be.

    ``use_cache=False`` converts into memory and writes nothing. ``note`` hears, in one sentence each, what was
    chosen and what is rebuilt. Raises every ModelError.
    """
    try:
        folder = resolve(
            model,
            allow_download=allow_download,
            family=family,
            revision=revision,
            progress=progress,
            cancel=cancel,
            env=env,
        )
    except CheckpointError as error:
        source = _source_of(Path(model).expanduser(), family)
        if source is None:
            raise
        return _rebuild(source, Path(model).expanduser(), error, quantize, progress, cancel, note, env, options)
    note(f"{folder.name}: {folder.reason}.")
    if folder.format != "lowbit":
        # Before minutes of converting, and naming the user's file instead of a copy in the cache.
        load_tokenizer(folder.path, folder.family)
    return prepare_folder(
        folder,
        quantize=quantize,
        use_cache=use_cache,
        progress=progress,
        cancel=cancel,
        note=note,
        env=env,
        options=options,
    )


def prepare_folder(
    folder: CheckpointFolder,
    *,
    quantize: Quantize | None = None,
    use_cache: bool = True,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    note: Note = silent,
    env: Mapping[str, str] = os.environ,
    options: ConvertOptions | None = None,
) -> Checkpoint:
    """The same for a folder that was resolved already."""
    progress(LoadProgress("check"))
    if folder.format == "lowbit":
        try:
            return _open(folder.path, progress, env)
        except CheckpointError as error:
            source = _source_of(folder.path, folder.family)
            if source is None:
                raise
            return _rebuild(source, folder.path, error, quantize, progress, cancel, note, env, options)
    if not use_cache:
        return convert_in_memory(folder, quantize=quantize, progress=progress, cancel=cancel, options=options)
    target = low_bit_folder(cache_root(env), folder.name, fingerprint(folder))
    if (target / MANIFEST).is_file():
        try:
            return _open(target, progress, env)
        except CheckpointError as error:
            return _rebuild(folder, target, error, quantize, progress, cancel, note, env, options)
    convert(folder, target, quantize=quantize, progress=progress, cancel=cancel, options=options)
    return _open(target, progress, env)


def _open(path: Path, progress: Progress, env: Mapping[str, str]) -> LowBitCheckpoint:
    checkpoint = open_low_bit(path, env=env)
    progress(LoadProgress("map", checkpoint.nbytes, checkpoint.nbytes))
    return checkpoint


def _rebuild(
    source: CheckpointFolder,
    target: Path,
    error: CheckpointError,
    quantize: Quantize | None,
    progress: Progress,
    cancel: CancelToken | None,
    note: Note,
    env: Mapping[str, str],
    options: ConvertOptions | None,
) -> Checkpoint:
    note(f"{error} It is made again from {source.path}.")
    convert(source, target, quantize=quantize, progress=progress, cancel=cancel, options=options)
    return _open(target, progress, env)


def _source_of(path: Path, family: Family | None) -> CheckpointFolder | None:
    """The unchanged source of a low-bit folder, where this machine still has it."""
    place = read_local(path).get("source")
    if not (path / MANIFEST).is_file() or not isinstance(place, str):
        return None
    try:
        manifest = read_manifest(path)
    except ModelError:
        manifest = None
    try:
        name = manifest.name if manifest else None
        source = inspect_folder(Path(place), family=manifest.family if manifest else family, name=name)
        if source.format == "lowbit" or (manifest and fingerprint(source) != manifest.source_fingerprint):
            return None
    except ModelError:
        return None
    return source
