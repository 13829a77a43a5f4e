"""What is kept on this machine, what a model needs before one starts it, and the doctor's report, for the page.

Knows the cache and the settings, no page. Importing it loads no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chatglm_backend.checkpoint.cache import CacheEntry, delete_cached, list_cache
from chatglm_backend.checkpoint.places import cache_root, canonical, is_hub_id
from chatglm_backend.checkpoint.preflight import available_memory, free_disk
from chatglm_backend.checkpoint.source import inspect_folder
from chatglm_backend.errors import ModelInUse
from chatglm_backend.models.config import family_named_in
from chatglm_backend.service.report import Findings, look_at_everything
from chatglm_backend.settings import Settings, with_cache

# Bytes of the authors' fp16 files (ChatGLM-6B's hold the output layer twice). INT4 is 17/32 of a byte a weight, the
# embedding stays fp16; on disk the layout that the kernel reads is kept beside it, without the embedding.
_DOWNLOAD = {"chatglm": 13_400_000_000, "chatglm2": 12_500_000_000, "chatglm3": 12_500_000_000}
_INT4_SHARE, _LAYOUT_SHARE = 0.325, 0.255
# The same of files in THUDM's 4 and 8 bits.
_THUDM_SHARES = {4: (1, _LAYOUT_SHARE), 8: (0.56, 0.47)}
_WORKING_MEMORY = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Needs:
    """What starting a model takes and what there is, in bytes; what is already here is not counted again."""

    model: str
    disk: int
    memory: int
    free_disk: int
    free_memory: int

    @property
    def enough(self) -> bool:
        """Whether there is room for it."""
        return self.disk <= self.free_disk and self.memory <= self.free_memory


class Keeper:
    """The machine's models, for the page."""

    def __init__(self, settings: Settings, env: Mapping[str, str] = os.environ) -> None:
        self._settings = settings
        self._env = with_cache(settings, env)

    def entries(self) -> tuple[CacheEntry, ...]:
        """Everything kept."""
        return list_cache(self._env)

    def delete(self, name: str, in_use: str | None) -> CacheEntry:
        """Delete one entry. Raises ModelInUse for the model that is loaded, ModelNotFound, CacheLocked."""
        for entry in self.entries():
            if entry.name == name and in_use is not None and canonical(entry.model) == canonical(in_use):
                raise ModelInUse(model=entry.model)
        return delete_cached(name, self._env)

    def report(self) -> Findings:
        """The doctor's report; takes seconds."""
        return look_at_everything(self._settings)

    def needs(self, model: str) -> Needs | None:
        """Estimate what a folder or hub id takes; ``None`` where that cannot be told.

        Raises CheckpointError for a folder that cannot be loaded at all.
        """
        path = Path(model).expanduser()
        if path.is_dir():
            disk, memory = self._folder(path)
        else:
            family = family_named_in(model.rpartition("/")[2]) if is_hub_id(model) else None
            if family is None:
                return None
            disk, memory = self._hub(model, _DOWNLOAD[family])
        free = free_disk(cache_root(self._env))
        return Needs(model, disk, memory + _WORKING_MEMORY, free, available_memory())

    def _folder(self, path: Path) -> tuple[int, int]:
        folder = inspect_folder(path)
        if folder.format == "lowbit":
            return 0, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        size = sum(file.stat().st_size for file in folder.files)
        int4, layout = _THUDM_SHARES.get(folder.thudm_bits, (_INT4_SHARE, _LAYOUT_SHARE))
        return int(size * int4) + int(size * layout), int(size * int4)

    def _hub(self, model: str, download: int) -> tuple[int, int]:
        low_bit = int(download * _INT4_SHARE)
        kinds = {
            entry.kind for entry in self.entries() if entry.complete and canonical(entry.model) == canonical(model)
        }
        if "low-bit" in kinds:
            return 0, low_bit
        kept = low_bit + int(download * _LAYOUT_SHARE)
        return kept + (0 if "download" in kinds else download), low_bit
