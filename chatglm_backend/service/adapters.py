"""The fine-tunes of one loaded model: added, listed and removed while it answers.

Imports no torch until one is added. Knows no page and no HTTP.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm_backend.core import AdapterInfo, LoadProgress
from chatglm_backend.errors import AdapterError, AdapterMismatch, AdapterNameUsed, UnknownAdapter
from chatglm_backend.sentences import Sentence

if TYPE_CHECKING:
    import torch

    from chatglm_backend.adapters.load import AdaptableWeights
    from chatglm_backend.models.adapter import Adapter
    from chatglm_backend.models.config import ModelConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def named_source(source: str) -> tuple[str, str]:
    """The name and the place in ``name=place``; the place, a folder or hub id, gives its own name where none is given.

    A name is made of letters, digits, dots, dashes and underscores; what is none is a place.
    """
    name, separator, place = source.partition("=")
    if not separator or not _NAME.fullmatch(name):
        name, place = "", source
    folder = Path(place).expanduser()
    own = folder.resolve().name if folder.is_dir() else folder.name.partition("@")[0]
    return name or re.sub(r"[^A-Za-z0-9._-]+", "-", own).strip("-.") or "adapter", place


@dataclass(frozen=True, slots=True)
class BaseParts:
    """What a fine-tune is checked against and made of; ``exact`` keeps its numbers in fp32.

    ``own`` is the prefix of a base that is a P-Tuning fine-tune itself, which takes no other.
    """

    config: ModelConfig
    weights: AdaptableWeights
    kv_dtype: torch.dtype
    exact: bool
    own: Adapter | None = None


def read_adapter(
    source: str,
    base: BaseParts,
    env: Mapping[str, str] = os.environ,
    progress: Callable[[LoadProgress], None] | None = None,
) -> tuple[AdapterInfo, Adapter]:
    """The fine-tune of ``place`` or ``name=place``, fetched where need be. Raises a ModelError."""
    import torch

    from chatglm_backend.adapters.find import find_adapter
    from chatglm_backend.adapters.folder import inspect_adapter
    from chatglm_backend.adapters.load import load_adapter
    from chatglm_backend.checkpoint.adapters import base_here
    from chatglm_backend.checkpoint.progress import silent

    name, place = named_source(source)
    if base.own is not None:
        raise AdapterError(reason=Sentence("adapter.on_prefix", path=place))
    folder = inspect_adapter(find_adapter(place, progress=progress or silent, env=env), name)
    dtype = torch.float32 if base.exact else torch.float16
    try:
        adapter = load_adapter(folder, base.config, base=base.weights, dtype=dtype, kv_dtype=base.kv_dtype)
    except AdapterMismatch as error:
        here = base_here(folder.base, env)
        if here is None:
            raise
        raise AdapterError(reason=Sentence("adapter.base_here", problem=error, base=here)) from error
    return AdapterInfo(name, folder.kind, adapter.size, adapter.nbytes, folder.base, place, adapter.identity), adapter


class Adapters:
    """Thread-safe. ``publish`` takes the adapters by name whenever they change."""

    def __init__(
        self,
        base: BaseParts,
        publish: Callable[[Mapping[str, Adapter]], None],
        env: Mapping[str, str] = os.environ,
    ) -> None:
        self._base = base
        self._env = env
        self._publish = publish
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[AdapterInfo, Adapter]] = {}
        self._tell()

    def infos(self) -> tuple[AdapterInfo, ...]:
        """What is loaded, in the order in which it was added."""
        return tuple(info for info, _ in list(self._loaded.values()))

    def add(self, source: str, progress: Callable[[LoadProgress], None] | None = None) -> AdapterInfo:
        """Find a fine-tune, check it against the base, and offer it. Raises a ModelError."""
        name, place = named_source(source)
        if name not in self._loaded:
            info, adapter = read_adapter(source, self._base, self._env, progress)
            with self._lock:  # not while it is fetched and read
                if name not in self._loaded:
                    self._loaded[name] = info, adapter
                    self._tell()
                    return info
        raise AdapterNameUsed(name=name, path=place)

    def remove(self, name: str) -> AdapterInfo:
        """Offer it no more; whoever is answered with it keeps it to the end. Raises UnknownAdapter."""
        with self._lock:
            if name not in self._loaded:
                raise UnknownAdapter(name=name, names=", ".join(self._loaded) or "-")
            info, _ = self._loaded.pop(name)
            self._tell()
        return info

    def _tell(self) -> None:
        own = {} if self._base.own is None else {"": self._base.own}
        self._publish({**own, **{name: adapter for name, (_, adapter) in self._loaded.items()}})
