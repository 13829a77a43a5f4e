"""Where checkpoints lie on this machine, and what each hub model is called there.

Knows folders and names only: nothing here opens a file of a checkpoint or reaches the network.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

import platformdirs

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_HUB_FOLDER = "models--"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
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


def kv_root(root: Path) -> Path:
    """Where keys and values of conversations lie below the cache folder."""
    return root / "kv"


def low_bit_root(root: Path) -> Path:
    """Where converted checkpoints lie below the cache folder."""
    return root / "low-bit"


def kernels_root(root: Path) -> Path:
    """Where compiled kernels, and the measured choice between them, lie below the cache folder."""
    return root / "kernels"


def closed_to_others(*folders: Path) -> bool:
    """Whether nobody but their owners may write there; one's own are closed to the others first. True where none is.

    Where closing changes nothing, the file system knows of no rights, and what it says of them means nothing.
    """
    for folder in folders if os.name != "nt" else ():
        try:
            found = folder.stat()
        except OSError:
            continue
        if found.st_mode & _OTHERS_WRITE:
            if found.st_uid != os.getuid():
                return False
            try:
                folder.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS_WRITE)
            except OSError:
                return False
    return True


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
    return _HUB_FOLDER + model_id.replace("/", "--")


def hub_name(snapshot: Path) -> str | None:
    """The hub id of a snapshot's folder in the hub's cache; ``None`` for any other folder."""
    place = snapshot.absolute()
    model = hub_id(place.parent.parent) if place.parent.name == "snapshots" else None
    return canonical(model) if model else None


def hub_id(repo: Path) -> str | None:
    """The id of the model that a folder of the hub's cache is for; ``None`` for any other folder."""
    name = repo.name.removeprefix(_HUB_FOLDER)
    return name.replace("--", "/", 1) if name != repo.name else None


def on_this_machine(model: str, env: Mapping[str, str] = os.environ) -> bool:
    """Whether a model can be had without fetching, by its looks: a folder, in the hub's cache, or converted."""
    if expanded(model).is_dir():
        return True
    downloads = (snapshots(hub_cache(env) / hub_folder_name(name)) for name in aliases(model))
    converted = low_bit_root(cache_root(env)).glob(f"{slug(canonical(model))}-????????")
    return is_hub_id(model) and (any(downloads) or any(True for _ in converted))


def snapshots(repo: Path, revision: str | None = None) -> list[Path]:
    """The snapshots in the hub cache's folder of a model, the one that is meant first; none in any other folder.

    Without ``revision`` the main branch is meant, and where its name was not kept, the newest snapshot.
    """
    folder = repo / "snapshots"
    if not repo.name.startswith(_HUB_FOLDER) or not folder.is_dir():
        return []
    ref = repo.joinpath("refs", *(revision or "main").split("/"))
    if ref.is_file():
        named = folder / ref.read_text(encoding="utf-8", errors="replace").strip()
        return [named] if named.is_dir() else []
    if revision:
        return [folder / revision] if (folder / revision).is_dir() else []
    return sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)


def slug(name: str) -> str:
    """A model's name as part of a folder name on every system."""
    return re.sub(r"[^\w.-]+", "-", name.replace("/", "--")).strip("-.") or "model"
