"""What the hub's cache on this machine holds, and how the environment wants the hub to be reached.

Reads the cache's folders in the layout that huggingface_hub keeps; never reaches the network.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chatglm_backend.checkpoint.places import aliases, expanded, hub_cache, hub_folder_name, snapshots
from chatglm_backend.checkpoint.source import has_complete_weights
from chatglm_backend.network import proxy_of

_DEFAULT_ENDPOINT = "https://huggingface.co"
_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True, slots=True)
class HubAccess:
    """Where the hub is and how it may be used. ``env`` says which way requests take."""

    endpoint: str
    cache: Path
    offline: bool
    token: str | None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def route(self) -> str:
        """The hub and the proxy before it, in words."""
        proxy = proxy_of(self.env, self.endpoint)
        return f"{self.endpoint} (through the proxy in {proxy[0]})" if proxy else self.endpoint


def hub_access(env: Mapping[str, str] = os.environ) -> HubAccess:
    """Read ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``, ``HF_TOKEN`` and the cache's place from the environment."""
    offline = any(env.get(name, "").strip().lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    endpoint = env.get("HF_ENDPOINT", "").strip().rstrip("/") or _DEFAULT_ENDPOINT
    return HubAccess(endpoint, hub_cache(env), offline, _token(env), env)


def find_cached(
    model_id: str,
    *,
    revision: str | None = None,
    cache: Path,
    complete: Callable[[Path], bool] = has_complete_weights,
) -> Path | None:
    """The folder of a model's ``complete`` snapshot under either of its names, or ``None``.

    Without ``revision`` the main branch is meant, and where its name was not kept, the newest snapshot.
    Raises LfsPointerFile or DamagedFile for files that can never become whole by downloading on.
    """
    for name in aliases(model_id):
        for snapshot in snapshots(cache / hub_folder_name(name), revision):
            if complete(snapshot):
                return snapshot
    return None


def _token(env: Mapping[str, str]) -> str | None:
    if env.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").strip().lower() in _TRUE:
        return None
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if env.get(name, "").strip():
            return env[name].strip()
    place = Path(env["HF_TOKEN_PATH"]) if env.get("HF_TOKEN_PATH") else hub_cache(env).parent / "token"
    try:
        return expanded(place).read_text(encoding="utf-8-sig").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
