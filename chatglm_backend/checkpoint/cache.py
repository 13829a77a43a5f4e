"""What is kept on this machine, how large it is, and how to delete it.

Covers our converted checkpoints and the hub's downloads of our families, fine-tunes among them. Loads no tensor.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from chatglm_backend.checkpoint.adapters import (
    ADAPTER_CONFIG,
    adapts_a_family,
    base_of,
    holds_adapter,
    holds_lone_prefix,
)
from chatglm_backend.checkpoint.lock import writer_lock
from chatglm_backend.checkpoint.manifest import LOCAL, MANIFEST, manifest_in, read_noted
from chatglm_backend.checkpoint.places import (
    cache_root,
    canonical,
    closed_to_others,
    hub_cache,
    hub_id,
    kv_root,
    low_bit_root,
    slug,
)
from chatglm_backend.checkpoint.source import CheckpointFolder, check_config, has_complete_weights
from chatglm_backend.errors import CacheLocked, CheckpointError, ModelError, ModelNotFound
from chatglm_backend.models.config import Family, family_named_in

Kind = Literal["low-bit", "download", "adapter", "kv"]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One thing in a cache. ``name`` is what ``delete_cached`` takes; ``nbytes`` counts all its files, in bytes."""

    name: str
    model: str
    kind: Kind
    path: Path
    nbytes: int
    family: Family | None
    complete: bool


def low_bit_folder(root: Path, name: str, fingerprint: str) -> Path:
    """Where the conversion of a source lies: one folder for each model name and content."""
    return low_bit_root(root) / f"{slug(canonical(name))}-{fingerprint[:8]}"


def is_closed(folder: Path) -> bool:
    """Whether nobody but its owner may change a conversion; one's own is closed to the others first."""
    return closed_to_others(folder.parent, folder, *folder.rglob("*"))


def drop_outdated(root: Path, source: CheckpointFolder, current: Path) -> None:
    """Delete what ``source`` was converted to before it changed; what somebody writes or uses is left for later."""
    for folder in _folders(low_bit_root(root)):
        if folder == current or not folder.name.startswith(f"{slug(canonical(source.name))}-"):
            continue
        place = read_noted(folder / LOCAL).get("source")
        if place == str(source.path.resolve()) or not (folder / MANIFEST).is_file():
            with contextlib.suppress(ModelError, OSError):
                _delete_low_bit(folder)


def find_low_bit(root: Path, name: str, *, family: Family | None = None) -> Path | None:
    """The newest converted checkpoint of a hub model, whether or not its source is still here."""
    found: list[tuple[float, Path]] = []
    for folder in _folders(low_bit_root(root)):
        manifest = manifest_in(folder)
        if manifest and canonical(manifest.name) == canonical(name) and family in (None, manifest.family):
            found.append(((folder / MANIFEST).stat().st_mtime, folder))
    return max(found)[1] if found else None


def list_cache(env: Mapping[str, str] = os.environ) -> tuple[CacheEntry, ...]:
    """Everything kept, converted checkpoints first, what was read of conversations last."""
    root = cache_root(env)
    kv = kv_root(root)
    read = [CacheEntry("kv", "", "kv", kv, _size(kv), None, complete=True)] if kv.is_dir() else []
    return (*_low_bit_entries(root), *_hub_entries(hub_cache(env)), *read)


def delete_cached(name: str, env: Mapping[str, str] = os.environ) -> CacheEntry:
    """Delete one entry of :func:`list_cache`, by its name, and return what was deleted.

    Raises ModelNotFound, and CacheLocked while another process writes it.
    """
    entry = next((entry for entry in list_cache(env) if entry.name == name), None)
    if entry is None:
        raise ModelNotFound(path=name)
    if entry.kind == "low-bit":
        _delete_low_bit(entry.path)
        return entry
    try:
        shutil.rmtree(entry.path)
    except PermissionError as error:
        raise CacheLocked(path=entry.path) from error
    return entry


def _delete_low_bit(folder: Path) -> None:
    """Raises CacheLocked, also where a system does not delete what is mapped."""
    with writer_lock(folder, wait_s=0):
        # The manifest goes first: a deletion cut short leaves nothing that looks whole.
        (folder / MANIFEST).unlink(missing_ok=True)
    try:
        shutil.rmtree(folder)
    except PermissionError as error:
        raise CacheLocked(path=folder) from error


def _low_bit_entries(root: Path) -> list[CacheEntry]:
    entries = []
    for folder in _folders(low_bit_root(root)):
        manifest = manifest_in(folder)
        model = manifest.name if manifest else folder.name
        family = manifest.family if manifest else None
        size = _size(folder)
        if manifest is None and not size:
            continue  # A conversion that failed before it wrote anything leaves its lock file, nothing to tell of.
        entries.append(CacheEntry(folder.name, model, "low-bit", folder, size, family, manifest is not None))
    return entries


def _hub_entries(cache: Path) -> list[CacheEntry]:
    entries = []
    for folder in _folders(cache):
        model = hub_id(folder)
        if model is None:
            continue
        snapshots = _folders(folder / "snapshots")
        whole = not any(folder.glob("blobs/*.incomplete"))
        tuned = next((one for one in snapshots if (one / ADAPTER_CONFIG).is_file()), None)
        if tuned is not None and not _try(has_complete_weights, tuned):
            named = family_named_in(model) or family_named_in(base_of(tuned))
            if named or adapts_a_family(tuned):
                entries.append(
                    CacheEntry(model, model, "adapter", folder, _size(folder), named, whole and holds_adapter(tuned))
                )
            continue
        family = family_named_in(model) or next(filter(None, (_try(check_config, one) for one in snapshots)), None)
        if family is None:
            continue
        complete = whole and any(_try(has_complete_weights, one) for one in snapshots)
        kind: Kind = "adapter" if any(_try(holds_lone_prefix, one) for one in snapshots) else "download"
        entries.append(CacheEntry(model, model, kind, folder, _size(folder), family, complete))
    return entries


def _try(ask: Callable[[Path], _T], snapshot: Path) -> _T | None:
    """What a download's files tell; ``None`` where they cannot be read."""
    try:
        return ask(snapshot)
    except (CheckpointError, OSError):
        return None


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []


def _size(folder: Path) -> int:
    return sum(p.lstat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
