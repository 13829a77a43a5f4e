"""Small checkpoints with the logits of the authors' own code, read straight from their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from chatglm_backend.checkpoint.thudm import dequantize_rows, reencode_rows
from chatglm_backend.int4.bigdl import quantize
from chatglm_backend.models.config import ModelConfig, family_named_in
from chatglm_backend.models.layout import names_in_transformers, tensor_specs

GOLDEN = Path(__file__).parent / "golden"
LONG = ("chatglm2-6b-32k", "chatglm3-6b-32k", "chatglm3-6b-128k")
GLM4 = ("glm-4-9b-chat", "glm-4-9b-chat-hf", "glm-4-9b-0414", "glm-edge-1.5b-chat", "glm-edge-4b-chat")
FOLDERS = ("chatglm-6b", "chatglm-6b-int4", "chatglm-6b-int8", "chatglm2-6b", "chatglm3-6b", *LONG, *GLM4)
# Without those whose arithmetic another one has: what the engine does with them would be tested twice.
DIFFERENT = tuple(name for name in FOLDERS if name not in ("glm-4-9b-chat", "glm-4-9b-chat-hf", "glm-edge-1.5b-chat"))


@dataclass(frozen=True)
class Case:
    """One prompt with what the authors' code makes of it; logits fp32 [rows, vocab]."""

    input_ids: list[int]
    continuation_ids: list[int]
    greedy_ids: list[int]
    prefill_logits: Tensor
    decode_logits: Tensor


def golden_config(name: str) -> ModelConfig:
    """Return the folder's config."""
    family = family_named_in(name)
    assert family is not None
    return ModelConfig.from_json(json.loads((GOLDEN / name / "config.json").read_text()), family=family)


def golden_cases(name: str, *, int4: bool = False) -> list[Case]:
    """Return the folder's cases with fp32 logits, or those of exact INT4 arithmetic."""
    logits = load_file(GOLDEN / name / ("expected_int4_logits.safetensors" if int4 else "expected_logits.safetensors"))
    cases = json.loads((GOLDEN / name / "expected.json").read_text())["cases"]
    return [
        Case(**case, prefill_logits=logits[f"case{i}.prefill_logits"], decode_logits=logits[f"case{i}.decode_logits"])
        for i, case in enumerate(cases)
    ]


@lru_cache(maxsize=13)
def dense_tensors(name: str) -> Mapping[str, Tensor]:
    """Return the folder's weights; 4-bit and 8-bit ones as their fp32 values."""
    tensors = _raw_tensors(name)
    for scale in [key for key in tensors if key.endswith(".weight_scale")]:
        weight = scale.removesuffix("_scale")
        tensors[weight] = dequantize_rows(tensors[weight], tensors.pop(scale), bits=8 if name.endswith("int8") else 4)
    return tensors


@lru_cache(maxsize=13)
def packed_tensors(name: str) -> Mapping[str, Tensor]:
    """Return the folder's weights as a low-bit checkpoint holds them."""
    raw: Mapping[str, Tensor] = dense_tensors(name) if name.endswith("int8") else _raw_tensors(name)
    packed: dict[str, Tensor] = {}
    for spec in tensor_specs(golden_config(name)):
        scale = raw.get(f"{spec.name}_scale")
        if scale is not None:
            packed[spec.name] = reencode_rows(raw[spec.name], scale)
        else:
            lowered = spec.kind in ("linear", "output")
            packed[spec.name] = quantize(raw[spec.name].float()) if lowered else raw[spec.name]
    return packed


def rel_error(found: Tensor, expected: Tensor) -> float:
    """Return ‖found - expected‖ / ‖expected‖."""
    return float((found - expected).norm() / expected.norm())


def _raw_tensors(name: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for path in sorted((GOLDEN / name).glob("pytorch_model*.bin")):
        tensors.update(torch.load(path, weights_only=True))
    for path in sorted((GOLDEN / name).glob("model*.safetensors")):
        tensors.update(load_file(path))
    return tensors if "model.norm.weight" not in tensors else _by_our_names(tensors, golden_config(name))


def _by_our_names(stored: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Transformers' tensors by the authors' names; a tied output layer is the embedding."""
    stored = {"lm_head.weight": stored["model.embed_tokens.weight"], **stored}
    specs = tensor_specs(config)
    return {spec.name: torch.cat([stored[name] for name in names_in_transformers(spec.name)]) for spec in specs}
