"""The engine's limits, and a request that is ready for it. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chatglm_backend.core import GenerationRequest

if TYPE_CHECKING:
    from chatglm_backend.engine.grammar import Grammar
    from chatglm_backend.models.adapter import Adapter


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Draft tokens: at most ``draft_tokens`` (0: none) a step, where at most ``draft_max_running`` sequences write.

    ``prefill_share`` bounds a step's prefill to that multiple of its decode time; ``idle_units`` are done at a stretch
    while nobody is decoding.
    """

    draft_tokens: int = 8
    draft_max_running: int = 4
    prefix_cache_bytes: int = 512 * 1024 * 1024
    prefill_rows: int = 128
    prefill_share: float = 1.0
    prefill_units_per_step: int = 64
    idle_units: int = 16


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """An encoded request that fits the context; ``kv_bytes`` is what it may take at most, prefix rows included.

    The last ``begun`` ids belong to the text that the answer goes on with; it begins with one of ``openings`` where
    there are any, and keeps to ``grammar`` if there is one.
    """

    request: GenerationRequest
    prompt_ids: tuple[int, ...]
    max_new_tokens: int
    kv_bytes: int
    adapter: Adapter | None = None
    begun: int = 0
    openings: tuple[tuple[int, ...], ...] = ()
    grammar: Grammar | None = None
    predicted: tuple[int, ...] = ()

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompt has."""
        return len(self.prompt_ids)

    def within(self, kv_bytes: int) -> PreparedRequest:
        """The same with a shorter answer in at most these bytes, where it asked for as much as fits; else itself."""
        prefix = 0 if self.adapter is None or self.adapter.prefix is None else self.adapter.prefix.rows
        rows = self.prompt_tokens + self.max_new_tokens + prefix
        per_token = self.kv_bytes // rows
        left = self.max_new_tokens - (rows - kv_bytes // per_token)
        if self.request.params.max_new_tokens <= self.max_new_tokens or left < 1:
            return self
        return replace(self, max_new_tokens=left, kv_bytes=(rows - self.max_new_tokens + left) * per_token)
