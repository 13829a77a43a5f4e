"""Gets a model ready to be measured: the full-size shapes with random weights, or one from disk."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from chatglm_backend.benchmark.bandwidth import read_bandwidth_gb_s
from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.benchmark.runner import Machine
from chatglm_backend.checkpoint.known import MODELS, int4_bytes, known_model
from chatglm_backend.core import CancelToken
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.errors import ConfigError
from chatglm_backend.int4.kernel import KernelName
from chatglm_backend.int4.select import select_kernel
from chatglm_backend.int4.synthetic import SyntheticTensors
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.base import ChatModel, build_model
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.sentences import Sentence
from chatglm_backend.service.adapters import Adapters, BaseParts
from chatglm_backend.service.loading import Loading, Note, Progress, open_model
from chatglm_backend.settings import Settings


@dataclass(frozen=True, slots=True)
class Bench:
    """A model on the bench; ``load_s`` is the time from nothing to ready."""

    model: ChatModel
    base: BaseParts
    machine: Machine
    load_s: float

    def engine(self, *, draft_tokens: int) -> Engine:
        """Return an engine whose prompts are lengths and that reuses nothing."""
        options = EngineOptions(draft_tokens=draft_tokens, prefix_cache_bytes=0)
        return Engine(self.model, CountedPrompts(self.model.config), options)

    def adapters(self, sources: Iterable[str]) -> dict[str, Adapter]:
        """Fine-tunes from ``path`` or ``name=path``, by name. Raises an AdapterError or CheckpointError."""
        found: dict[str, Adapter] = {}
        loaded = Adapters(self.base, found.update)
        for source in sources:
            loaded.add(source)
        return found


def open_synthetic(
    name: str,
    *,
    threads: int,
    cache: Path | None,
    kernel: str = "auto",
    layers: int | None = None,
    kv_dtype: torch.dtype = torch.float16,
) -> Bench:
    """Build a full-size model of random INT4 weights in memory. Raises ConfigError for an unknown name or kernel.

    ``cache`` holds compiled kernels and the measured choice between them; without one nothing is compared. ``layers``:
    fewer than the model has, where only a ratio matters.
    """
    row = known_model(name)
    if row is None:
        raise ConfigError(name="synthetic", value=name, reason=Sentence("use.one_of", names=", ".join(MODELS)))
    began = time.perf_counter()
    torch.set_num_threads(threads)
    config = replace(row.config, num_layers=layers or row.config.num_layers)
    choice = select_kernel(cast("KernelName", kernel), threads=threads, cache=cache)
    weights = Int4Weights(SyntheticTensors(config), choice.kernel)
    model = build_model(config, weights, kv_dtype=kv_dtype, ops=choice.ops)
    machine = _machine(f"{row.short} (random weights)", choice.kernel.name, threads, config)
    base = BaseParts(config, weights, model.new_cache(1).dtype, machine.kernel == "exact")
    return Bench(model, base, machine, time.perf_counter() - began)


def open_existing(
    model: str | None, settings: Settings, *, progress: Progress, note: Note, env: Mapping[str, str]
) -> Bench:
    """Open a model as the page would, converting it first if need be. Raises what the service's loading raises."""
    began = time.perf_counter()
    opened = open_model(model, Loading(settings, progress, CancelToken(), note, env))
    config = opened.checkpoint.config
    machine = _machine(opened.info.name, opened.info.kernel, opened.info.threads, config)
    return Bench(opened.network, opened.base, machine, time.perf_counter() - began)


def _machine(name: str, kernel: str, threads: int, config: ModelConfig) -> Machine:
    size = int4_bytes(config)
    return Machine(name, kernel, threads, size, lambda: read_bandwidth_gb_s(threads=threads))
