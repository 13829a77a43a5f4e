"""Where a fine-tune lies: a local folder, the hub's cache, or the hub itself. Loads no tensor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from chatglm_backend.adapters.lora import read_lora_config
from chatglm_backend.checkpoint.adapters import ADAPTER_CONFIG, holds_adapter, wanted_adapter_files
from chatglm_backend.checkpoint.hub import find_cached, hub_access
from chatglm_backend.checkpoint.places import expanded, is_hub_id, snapshots
from chatglm_backend.checkpoint.progress import Progress, silent
from chatglm_backend.core import CancelToken
from chatglm_backend.errors import AdapterError, AdapterNotFound
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json


def find_adapter(
    source: str,
    *,
    progress: Progress = silent,
    cancel: CancelToken | None = None,
    env: Mapping[str, str] = os.environ,
) -> Path:
    """The folder of a fine-tune, ``path``, ``owner/name`` or ``owner/name@revision``; fetched where need be.

    Only config and weights are fetched, and what the config rules out is refused before the weights come. A text
    that is neither a folder nor a hub id is taken for a path.
    Raises AdapterError, and what downloading a model raises.
    """
    folder = expanded(source)
    model, _, revision = source.partition("@")
    if folder.is_dir() or not is_hub_id(model):
        return next(iter(snapshots(folder)), folder)
    access = hub_access(env)
    cached = find_cached(model, revision=revision or None, cache=access.cache, complete=holds_adapter)
    if cached is not None:
        return cached
    if access.offline:
        raise AdapterError(reason=Sentence("adapter.offline", name=source))
    # The HTTP client is loaded only when something is fetched.
    from chatglm_backend.checkpoint.download import download

    def look(folder: Path) -> None:
        if (folder / ADAPTER_CONFIG).is_file():
            read_lora_config(read_json(folder / ADAPTER_CONFIG), source)
        elif not read_json(folder / "config.json").get("pre_seq_len"):
            raise AdapterNotFound(path=source)

    return download(
        model,
        access,
        revision=revision or None,
        progress=progress,
        cancel=cancel,
        look=look,
        wanted=wanted_adapter_files,
    )
