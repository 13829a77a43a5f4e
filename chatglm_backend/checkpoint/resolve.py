"""From what a user typed to a checkpoint on this machine: a folder, a hub id, or a download.

Loads no tensor.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from chatglm_backend.checkpoint.cache import find_low_bit
from chatglm_backend.checkpoint.hub import find_cached, hub_access
from chatglm_backend.checkpoint.known import hub_id_of
from chatglm_backend.checkpoint.places import cache_root, canonical, expanded, is_hub_id, snapshots
from chatglm_backend.checkpoint.progress import Progress, silent
from chatglm_backend.checkpoint.source import CheckpointFolder, check_config, inspect_folder
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import CheckpointError, ConfigError, ModelNotCached, ModelNotFound, ModelOffline
from chatglm_backend.models.config import Family
from chatglm_backend.sentences import Sentence


def resolve(
    model: str,
    *,
    allow_download: bool,
    family: Family | None = None,
    revision: str | None = None,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    env: Mapping[str, str] = os.environ,
) -> CheckpointFolder:
    """Find a model: a local folder first, then the hub's cache, then a converted one, then the hub itself.

    A short name of the table of models, such as ``chatglm3-6b``, means its hub id.

    Raises ModelNotFound, ModelNotCached (where nothing may be fetched), ModelOffline, HubUnreachable, DownloadFailed,
    LoadCancelled, and every CheckpointError.
    """
    progress(LoadProgress("find"))
    folder = expanded(model)
    if model.strip() and folder.is_dir():
        return inspect_folder(next(iter(snapshots(folder, revision)), folder), family=family)
    model = _checked_id(model)
    access = hub_access(env)
    snapshot = find_cached(model, revision=revision, cache=access.cache)
    if snapshot is None and revision is None:
        converted = find_low_bit(cache_root(env), canonical(model), family=family)
        if converted is not None:
            return inspect_folder(converted, family=family)
    if snapshot is None:
        if not allow_download:
            raise ModelNotCached(model=model)
        snapshot = fetch(model, family=family, revision=revision, progress=progress, cancel=cancel, env=env)
    return inspect_folder(snapshot, family=family, name=canonical(model))


def fetch(
    model: str,
    *,
    family: Family | None = None,
    revision: str | None = None,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    env: Mapping[str, str] = os.environ,
) -> Path:
    """Download a hub model, or what is missing of it, and return its folder.

    What its config.json rules out is refused before the weights come.
    Raises as :func:`resolve` does, and ConfigError for a folder.
    """
    if model.strip() and expanded(model).is_dir():
        raise ConfigError(name="model", value=model, reason=Sentence("folder.local"))
    model = _checked_id(model)
    access = hub_access(env)
    if access.offline:
        snapshot = find_cached(model, revision=revision, cache=access.cache)
        if snapshot is None:
            raise ModelOffline(model=model)
        return snapshot
    # The HTTP client is loaded only when something is fetched.
    from chatglm_backend.checkpoint.download import download

    def look(folder: Path) -> None:
        check_config(folder, family=family, name=canonical(model))

    return download(model, access, revision=revision, progress=progress, cancel=cancel, look=look)


def _checked_id(model: str) -> str:
    """The hub id that is meant. Raises where the text can be none, saying what it is instead."""
    if model.strip() and expanded(model).is_file():
        raise CheckpointError(path=model, reason=Sentence("folder.is_file"))
    if not is_hub_id(hub_id_of(model)):
        raise ModelNotFound(path=model if model.strip() else f"'{model}'")
    return hub_id_of(model)
