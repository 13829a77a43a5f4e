"""Gets a model ready to be measured: the full-size shapes with random weights, or one from disk."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from chatglm_backend.benchmark.bandwidth import read_bandwidth_gb_s
from chatglm_backend.benchmark.counted_prompts import CountedPrompts
from chatglm_backend.benchmark.runner import Machine
from chatglm_backend.core import CancelToken
from chatglm_backend.engine.engine import Engine
from chatglm_backend.engine.options import EngineOptions
from chatglm_backend.errors import ConfigError
from chatglm_backend.int4.blocks import row_bytes
from chatglm_backend.int4.kernel import KernelName
from chatglm_backend.int4.select import select_kernel
from chatglm_backend.int4.synthetic import SyntheticTensors
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.base import ChatModel, build_model
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.layout import tensor_specs
from chatglm_backend.sentences import Sentence
from chatglm_backend.service.adapters import Adapters, BaseParts
from chatglm_backend.service.loading import Loading, Note, Progress, open_model
from chatglm_backend.settings import Settings
from chatglm_backend.tokenizers.base import Family

SYNTHETIC_MODELS: dict[str, Family] = {
    "chatglm-6b": "chatglm",
    "chatglm2-6b": "chatglm2",
    "chatglm3-6b": "chatglm3",
}


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


def full_size_config(family: Family) -> ModelConfig:
    """Return the shape of the real model."""
    common = {"num_layers": 28, "hidden_size": 4096, "num_heads": 32, "head_dim": 128, "layernorm_eps": 1e-5}
    if family == "chatglm":
        return ModelConfig(
            family=family, num_kv_heads=32, ffn_hidden_size=16384, vocab_size=130528, context_limit=2048,
            stop_ids=(130005,), gmask_id=130001, mask_id=130000, bos_id=130004, **common,  # type: ignore[arg-type]
        )  # fmt: skip
    return ModelConfig(
        family=family, num_kv_heads=2, ffn_hidden_size=13696, vocab_size=65024, context_limit=8192,
        stop_ids=(2,), **common,  # type: ignore[arg-type]
    )  # fmt: skip


def int4_bytes_per_token(config: ModelConfig) -> int:
    """Bytes of INT4 weights, scales included, that one decode step reads."""
    specs = tensor_specs(config)
    return sum(spec.shape[0] * row_bytes(spec.shape[1]) for spec in specs if spec.kind in ("linear", "output"))


def open_synthetic(
    name: str,
    *,
    threads: int,
    cache: Path | None,
    kernel: str = "auto",
) -> Bench:
    """Build a full-size model of random INT4 weights in memory. Raises ConfigError for an unknown name or kernel.

    ``cache`` holds compiled kernels and the measured choice between them; without one nothing is compared.
    """
    if name not in SYNTHETIC_MODELS:
        raise ConfigError(
            name="synthetic", value=name, reason=Sentence("use.one_of", names=", ".join(SYNTHETIC_MODELS))
        )
    began = time.perf_counter()
    torch.set_num_threads(threads)
    config = full_size_config(SYNTHETIC_MODELS[name])
    choice = select_kernel(cast("KernelName", kernel), threads=threads, cache=cache)
    weights = Int4Weights(SyntheticTensors(config), choice.kernel)
    model = build_model(config, weights, ops=choice.ops)
    machine = _machine(f"{name} (random weights)", choice.kernel.name, threads, config)
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
    size = int4_bytes_per_token(config)
    return Machine(name, kernel, threads, size, lambda: read_bandwidth_gb_s(threads=threads))
