"""Where checkpoints lie on this machine, and what each hub model is called there.

Knows folders and names only: nothing here opens a file of a checkpoint or reaches the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import platformdirs

__all__ = [
    "aliases",
    "cache_root",
    "canonical",
    "expanded",
    "hub_cache",
    "hub_folder_name",
    "is_hub_id",
    "kernels_root",
    "low_bit_root",
    "slug",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_OLD_OWNER, _NEW_OWNER = "THUDM/", "zai-org/"


def expanded(path: str | Path) -> Path:
    """The path with ``~`` replaced, also where a shell left it (``--out=~/x``); as it is where no home is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def cache_root(env: Mapping[str, str] = os.environ) -> Path:
    """The folder for everything that can be made again: ``CHATGLM_CACHE``, or the platform's own place."""
    chosen = env.get("CHATGLM_CACHE", "").strip()
    if chosen:
        return expanded(chosen)
    return Path(platformdirs.user_cache_dir("chatglm-cpu", appauthor=False))


def low_bit_root(root: Path) -> Path:
    """Where converted checkpoints lie below the cache folder."""
    return root / "low-bit"


def kernels_root(root: Path) -> Path:
    """Where compiled kernels, and the measured choice between them, lie below the cache folder."""
    return root / "kernels"


def hub_cache(env: Mapping[str, str] = os.environ) -> Path:
    """The hub's own cache folder, found by the rules that huggingface_hub uses."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(name):
            return expanded(env[name])
    if env.get("HF_HOME"):
        return expanded(env["HF_HOME"]) / "hub"
    return expanded(env.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface" / "hub"


def is_hub_id(model: str) -> bool:
    """Whether the text looks like ``owner/name`` (a folder of that name still comes first)."""
    return _HUB_ID.fullmatch(model) is not None


def aliases(model_id: str) -> tuple[str, ...]:
    """The names under which the hub knows a model, as given first: the authors renamed THUDM to zai-org."""
    for old, new in ((_OLD_OWNER, _NEW_OWNER), (_NEW_OWNER, _OLD_OWNER)):
        if model_id.startswith(old):
            return model_id, new + model_id[len(old) :]
    return (model_id,)


def canonical(model_id: str) -> str:
    """One name for both: the older, which the models' own configs use."""
    return _OLD_OWNER + model_id[len(_NEW_OWNER) :] if model_id.startswith(_NEW_OWNER) else model_id


def hub_folder_name(model_id: str) -> str:
    """The hub cache's folder for a model."""
    return "models--" + model_id.replace("/", "--")


def slug(name: str) -> str:
    """A model's name as part of a folder name on every system."""
    return re.sub(r"[^\w.-]+", "-", name.replace("/", "--")).strip("-.") or "model"
