"""The fine-tunes of one loaded model: added, listed and removed while it answers.

Imports no torch until one is added. Knows no page and no HTTP.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chatglm_backend.core import AdapterInfo
from chatglm_backend.errors import AdapterError, AdapterNameUsed, UnknownAdapter
from chatglm_backend.sentences import Sentence

if TYPE_CHECKING:
    import torch

    from chatglm_backend.adapters.load import AdaptableWeights
    from chatglm_backend.models.adapter import Adapter
    from chatglm_backend.models.config import ModelConfig

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def named_path(source: str) -> tuple[str, Path]:
    """``name=path``, or a path whose folder's own name is the name.

    A name is made of letters, digits, dots, dashes and underscores; what is none is a path.
    """
    name, separator, path = source.partition("=")
    if not separator or not _NAME.fullmatch(name):
        name, path = "", source
    folder = Path(path).expanduser()
    return name or re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-.") or "adapter", folder


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


def read_adapter(source: str, base: BaseParts) -> tuple[AdapterInfo, Adapter]:
    """The fine-tune in a folder, ``path`` or ``name=path``. Raises an AdapterError or CheckpointError."""
    import torch

    from chatglm_backend.adapters.folder import inspect_adapter
    from chatglm_backend.adapters.load import load_adapter

    name, path = named_path(source)
    folder = inspect_adapter(path, name)
    if base.own is not None:
        raise AdapterError(reason=Sentence("adapter.on_prefix", path=path))
    dtype = torch.float32 if base.exact else torch.float16
    adapter = load_adapter(folder, base.config, base=base.weights, dtype=dtype, kv_dtype=base.kv_dtype)
    return AdapterInfo(
        name, folder.kind, adapter.size, adapter.nbytes, folder.base, str(path), adapter.identity
    ), adapter


class Adapters:
    """Thread-safe. ``publish`` takes the adapters by name whenever they change."""

    def __init__(self, base: BaseParts, publish: Callable[[Mapping[str, Adapter]], None]) -> None:
        self._base = base
        self._publish = publish
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[AdapterInfo, Adapter]] = {}
        self._tell()

    def infos(self) -> tuple[AdapterInfo, ...]:
        """What is loaded, in the order in which it was added."""
        return tuple(info for info, _ in list(self._loaded.values()))

    def add(self, source: str) -> AdapterInfo:
        """Read a folder, check it against the base, and offer it. Raises an AdapterError or CheckpointError."""
        name, path = named_path(source)
        with self._lock:
            if name in self._loaded:
                raise AdapterNameUsed(name=name, path=path)
            info, adapter = read_adapter(source, self._base)
            self._loaded[name] = info, adapter
            self._tell()
        return info

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
