"""What a long prompt would take here, estimated from a benchmark of any model on this machine. Loads no torch."""

from __future__ import annotations

import json
import logging
import math
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from chatglm_backend.checkpoint.known import int4_bytes, kv_values
from chatglm_backend.int4.kernels.variants import host_cpu
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.layout import tensor_specs
from chatglm_backend.sentences import Sentence
from chatglm_backend.units import seconds, whole_seconds

_log = logging.getLogger(__name__)
_FILE, _VERSION = "speed.json", 3
"""The version goes up with every change of what a number means, and with kernels that are much faster."""
_LARGE = 256_000_000  # smaller models measure something else
# Measured on full-size shapes, docs/log/2026-11-28.md: a multiplication in attention takes as long as so many in a
# product while a prompt is read, and as reading so many bytes of weights behind it.
_ATTENTION_COST = 2.6
_ATTENTION_BYTES = 0.18


@dataclass(frozen=True, slots=True)
class Speed:
    """Multiplications per second while a prompt is read, and bytes of weights per second while tokens are made."""

    threads: int
    reads: float
    makes: float

    def ttft_s(self, config: ModelConfig, tokens: int) -> float:
        """Seconds until the first token behind a prompt."""
        attention = config.num_layers * config.num_heads * config.head_dim * tokens
        return tokens * (_multiplications(config) + _ATTENTION_COST * attention) / self.reads

    def itl_s(self, config: ModelConfig, tokens: int, kv_bytes: float) -> float:
        """Seconds between two tokens behind so many, with ``kv_bytes`` of K/V each."""
        multiplications = 2 * config.num_layers * config.num_heads * config.head_dim
        # Where heads share keys and values, these are read in less time than it takes to multiply with them.
        token = max(kv_bytes, _ATTENTION_BYTES * multiplications)
        return (int4_bytes(config) + token * tokens) / self.makes

    def rate(self, config: ModelConfig) -> float:
        """Tokens per second of a short answer; 16-bit K/V will do here."""
        return 1 / self.itl_s(config, 128, 2 * kv_values(config))

    def said(self, config: ModelConfig, tokens: int, kv_bytes: float) -> Sentence:
        """Both, as an estimate."""
        ttft, itl = self.ttft_s(config, tokens), self.itl_s(config, tokens, kv_bytes)
        return Sentence("known.time", tokens=tokens, ttft=whole_seconds(ttft), itl=seconds(itl))


def measured(
    config: ModelConfig, threads: int, prompt: int, prefill_tok_s: float, decode_tok_s: float, kv_bytes: float
) -> Speed:
    """The machine's speed, from a model's rates behind a prompt of so many tokens with ``kv_bytes`` of K/V each."""
    unit = Speed(threads, 1.0, 1.0)
    reads = unit.ttft_s(config, prompt) / prompt * prefill_tok_s
    return Speed(threads, reads, unit.itl_s(config, prompt, kv_bytes) * decode_tok_s)


def remember(folder: Path | None, config: ModelConfig, speed: Speed) -> None:
    """Keep a measurement of a large model; without a folder, or where it cannot be written, nothing."""
    if folder is not None and int4_bytes(config) >= _LARGE and speed.reads and speed.makes:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            kept = {"version": _VERSION, "cpu": _cpu(), **asdict(speed)}
            (folder / _FILE).write_text(json.dumps(kept), encoding="utf-8")


def recall(folder: Path | None, threads: int) -> Speed | None:
    """What was measured on this CPU with so many threads, and means what it means today."""
    with suppress(OSError, ValueError, TypeError):
        if folder is None:
            return None
        kept = dict(json.loads((folder / _FILE).read_text(encoding="utf-8")))
        if kept.pop("version", 1) != _VERSION:
            _log.info("%s is of another version: measure again with the benchmark command", folder / _FILE)
            return None
        cpu = kept.pop("cpu", None)
        found = Speed(**kept)
        if found.threads == threads and min(found.reads, found.makes) > 0 and cpu == _cpu():
            return found
    return None


def _cpu() -> str:
    """Its name and what of it may be used here; nothing where our own kernels cannot ask."""
    with suppress(ImportError):
        cpu = host_cpu()
        return " ".join((cpu.name, *sorted(cpu.features)))
    return ""


def _multiplications(config: ModelConfig) -> int:
    """Of one token of a prompt, outside attention."""
    return sum(math.prod(spec.shape) for spec in tensor_specs(config) if spec.kind == "linear")
