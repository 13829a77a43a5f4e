"""Which model runs when none was named: the real ChatGLM-6B if this machine has it, else the bundled one.

Never fetches anything. Loads no tensor.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chatglm_backend.checkpoint.cache import find_low_bit
from chatglm_backend.checkpoint.hub import find_cached, hub_access
from chatglm_backend.checkpoint.manifest import MANIFEST, read_manifest
from chatglm_backend.checkpoint.places import cache_root
from chatglm_backend.errors import CheckpointError, ModelNotCached
from chatglm_backend.installed import start_command
from chatglm_backend.sentences import Sentence

DEFAULT_MODEL = "THUDM/chatglm-6b"
BUNDLED = "chatglm-demo"


@dataclass(frozen=True, slots=True)
class DefaultModel:
    """The model to load, and one line for the user where it is not the one that they may expect."""

    model: str
    is_demo: bool
    notice: Sentence | None


def bundled_folder() -> Path:
    """Where the bundled model lies once there is one."""
    return Path(__file__).resolve().parent.parent / "demo_model"


def bundled_base() -> str:
    """What a fine-tune of the bundled model names as its base: every training of that model has another name."""
    return f"{BUNDLED}@{read_manifest(bundled_folder()).identity[:8]}"


def bundled_rounds() -> int:
    """How many earlier rounds of a conversation the bundled model can use, as its folder says; 0: all that fit."""
    try:
        said = json.loads((bundled_folder() / "chat.json").read_text(encoding="utf-8"))
        return int(said["earlier_rounds"])
    except (OSError, ValueError, KeyError):
        return 0


def default_model(env: Mapping[str, str] = os.environ, *, bundled: Path | None = None) -> DefaultModel:
    """Choose without reaching the network. Raises ModelNotCached where this machine has no model at all."""
    if _is_here(env):
        return DefaultModel(DEFAULT_MODEL, is_demo=False, notice=None)
    bundled = bundled or bundled_folder()
    if (bundled / MANIFEST).is_file():
        notice = Sentence("note.demo", model=DEFAULT_MODEL, command=start_command(DEFAULT_MODEL))
        return DefaultModel(str(bundled), is_demo=True, notice=notice)
    raise ModelNotCached(model=DEFAULT_MODEL)


def _is_here(env: Mapping[str, str]) -> bool:
    try:
        if find_cached(DEFAULT_MODEL, cache=hub_access(env).cache) is not None:
            return True
    except CheckpointError:
        # There, but unreadable: loading it names the file, which helps more than another model's answer.
        return True
    return find_low_bit(cache_root(env), DEFAULT_MODEL) is not None
