"""What a model needs before one starts it, beside what this machine has. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatglm_backend.checkpoint.cache import CacheEntry
from chatglm_backend.checkpoint.known import (
    KNOWN,
    WORKING_MEMORY,
    KnownModel,
    disk_bytes,
    hub_id_of,
    known_model,
    kv_values,
    low_bit_bytes,
)
from chatglm_backend.checkpoint.places import cache_root, canonical, is_hub_id
from chatglm_backend.checkpoint.preflight import available_memory, free_disk
from chatglm_backend.checkpoint.source import inspect_folder
from chatglm_backend.errors import ModelTooLarge
from chatglm_backend.models.config import ModelConfig, family_named_in
from chatglm_backend.sentences import Sentence
from chatglm_backend.serving.admission import plan_admission
from chatglm_backend.settings import Settings
from chatglm_backend.units import size

_LEAST_TOKENS = 512  # a shorter context is of no use
USUAL_TOKENS = 8192  # reading more takes minutes: only where it was asked for
_KV_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "int8": 1}

Here = Literal["", "download", "low-bit"]
"""What this machine has of a hub model: nothing, its finished download, or its finished conversion."""
Fit = Literal["full", "short", "memory", "disk"]
"""Runs with its whole context or with a shorter one; too large for the memory or for the disk."""


def kv_bytes(config: ModelConfig, settings: Settings) -> int:
    """Bytes that the KV cache takes per token; in int8 with a scale of four for each head's key and value."""
    scales = 4 * kv_values(config) // config.head_dim if settings.kv_dtype == "int8" else 0
    return kv_values(config) * _KV_BYTES[settings.kv_dtype] + scales


def kv_room(free_memory: int, weights: int) -> int:
    """Bytes for the K/V of all visitors once the weights are loaded."""
    return plan_admission(free_memory - weights, 1).kv_budget_bytes


def context_for(model: str, config: ModelConfig, settings: Settings, free_memory: int) -> int:
    """The context to run with: as set, or what is usual and memory admits; never more than the model's own.

    Raises ModelTooLarge where not even one visitor's fits.
    """
    asked, per_token, weights = settings.fixed("context"), kv_bytes(config, settings), low_bit_bytes(config)
    tokens = min(config.context_limit, asked or USUAL_TOKENS)
    if not asked:
        tokens = max(min(tokens, kv_room(free_memory, weights) // per_token), min(tokens, _LEAST_TOKENS))
    kv = tokens * per_token
    if weights + kv > free_memory:
        raise ModelTooLarge(
            model=model, needed=size(weights + kv), weights=size(weights), kv=size(kv), tokens=tokens,
            free=size(free_memory),
        )  # fmt: skip
    return tokens


@dataclass(frozen=True, slots=True)
class Needs:
    """What starting a model takes and what there is, in bytes; what is already here is not counted again.

    ``memory`` is without K/V, of which a visitor with ``context`` tokens takes ``kv``.
    """

    model: str
    disk: int
    memory: int
    free_disk: int
    free_memory: int
    kv: int = 0
    context: int = 1

    @property
    def enough(self) -> bool:
        """Whether there is room for it."""
        return self.disk <= self.free_disk and self.memory <= self.free_memory

    @property
    def tokens(self) -> int:
        """The longest context that the memory admits, up to the model's own."""
        room = kv_room(self.free_memory, self.memory - WORKING_MEMORY)
        return min(self.context, room * self.context // max(1, self.kv))

    @property
    def fit(self) -> Fit:
        """How the model would run here."""
        if self.disk > self.free_disk:
            return "disk"
        if self.memory > self.free_memory or self.tokens < min(_LEAST_TOKENS, self.context):
            return "memory"
        return "full" if self.tokens == self.context else "short"

    @property
    def hint(self) -> Sentence:
        """The same, said."""
        needed, free = (self.disk, self.free_disk) if self.fit == "disk" else (self.memory, self.free_memory)
        return Sentence(f"known.fit.{self.fit}", tokens=self.tokens, needed=size(needed), free=size(free))


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that people can get, and what it takes here."""

    model: KnownModel
    needs: Needs
    here: Here


@dataclass(frozen=True, slots=True)
class Reckoning:
    """Reckons for one machine and its settings; ``entries`` are the models that it keeps."""

    settings: Settings
    env: Mapping[str, str]
    entries: Iterable[CacheEntry]

    def needs(self, model: str) -> Needs | None:
        """What a folder, hub id or short name takes; ``None`` where that cannot be told.

        Raises CheckpointError for a folder that cannot be loaded at all.
        """
        path = Path(model).expanduser()
        if path.is_dir():
            folder = inspect_folder(path)
            return self._needs(model, 0 if folder.format == "lowbit" else disk_bytes(folder.config), folder.config)
        model = hub_id_of(model)
        # One made from a known model has its sizes.
        family = family_named_in(model) if is_hub_id(model) else None
        rows = [row for row in KNOWN if row.family == family]
        row = known_model(model) or next((row for row in rows if row.short in model.lower()), next(iter(rows), None))
        return None if row is None else self._of(model, row)

    def offers(self) -> tuple[Offer, ...]:
        """Every model of the table."""
        return tuple(Offer(row, self._of(row.hub_id, row), self._here(row.hub_id)) for row in KNOWN)

    def _of(self, model: str, row: KnownModel) -> Needs:
        kept = disk_bytes(row.config)
        disk = {"": kept + row.download_bytes, "download": kept, "low-bit": 0}[self._here(model)]
        return self._needs(model, disk, row.config)

    def _needs(self, model: str, disk: int, config: ModelConfig) -> Needs:
        kv = kv_bytes(config, self.settings) * config.context_limit
        memory, free = low_bit_bytes(config) + WORKING_MEMORY, free_disk(cache_root(self.env))
        return Needs(model, disk, memory, free, available_memory(), kv, config.context_limit)

    def _here(self, model: str) -> Here:
        kinds = {entry.kind for entry in self.entries if entry.complete and canonical(entry.model) == canonical(model)}
        return "low-bit" if "low-bit" in kinds else "download" if "download" in kinds else ""
