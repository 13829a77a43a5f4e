"""What PEFT's ``adapter_config.json`` says of a LoRA adapter, and what of it is refused. Opens no files; no torch.

Fields that change the arithmetic in a way that is not computed here are refused by name when they are set; fields
that are null, false or empty say nothing, of which PEFT writes more with every version.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from chatglm_backend.errors import AdapterUnsupported
from chatglm_backend.sentences import Sentence

# These say where an adapter came from, how it was trained, or only which tensors there are.
_HARMLESS = frozenset({
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "revision", "target_modules", "task_type",
})  # fmt: skip
_READ = frozenset({
    "alpha_pattern", "bias", "fan_in_fan_out", "init_lora_weights", "lora_alpha", "modules_to_save", "r",
    "rank_pattern", "use_rslora",
})  # fmt: skip
# Ways to begin that leave the base as it is; the others move a part of its weights into the adapter.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
_MOST_RANK = 4096
_MOST_PATTERNS = 4096
_LONGEST_PATTERN = 200
# A repeated group can take for ever to not match; names of modules need none.
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """``alpha / rank``, or ``alpha / sqrt(rank)`` with ``rslora``, scales a module's side path.

    ``alphas`` by patterns of modules' names; ranks are the tensors' own.
    """

    alpha: float
    rslora: bool = False
    transposed: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    saved_modules: tuple[str, ...] = ()
    takes_bias: bool = False

    def scale(self, module: str, rank: int) -> float:
        """The factor for a module of this name, without ``base_model.model.``."""
        alpha = next((value for pattern, value in self.alphas.items() if _matches(pattern, module)), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)


def read_lora_config(config: Mapping[str, object], path: str) -> LoraConfig:
    """Read a parsed ``adapter_config.json``. Raises AdapterUnsupported, which names the field."""
    if config.get("peft_type") != "LORA":
        raise AdapterUnsupported(path=path, field="peft_type", value=config.get("peft_type"))
    for key, value in config.items():
        if key not in _HARMLESS and key not in _READ and not _says_nothing(value):
            raise AdapterUnsupported(path=path, field=key, value=value)
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        raise AdapterUnsupported(path=path, field="init_lora_weights", value=config["init_lora_weights"])
    bias = config.get("bias", "none")
    if bias not in ("none", "all", "lora_only"):
        raise AdapterUnsupported(path=path, field="bias", value=bias)
    saved = config.get("modules_to_save") or ()
    if not isinstance(saved, (list, tuple)) or not all(isinstance(name, str) for name in saved):
        raise AdapterUnsupported(path=path, field="modules_to_save", value=saved)
    _number(config, "r", path, most=_MOST_RANK)
    _patterns(config, "rank_pattern", path)
    return LoraConfig(
        alpha=_number(config, "lora_alpha", path),
        rslora=_flag(config, "use_rslora", path),
        transposed=_flag(config, "fan_in_fan_out", path),
        alphas=_patterns(config, "alpha_pattern", path),
        saved_modules=tuple(saved),
        takes_bias=bias != "none",
    )


def _says_nothing(value: object) -> bool:
    return value is None or value is False or value in ({}, [], "")


def _flag(config: Mapping[str, object], key: str, path: str) -> bool:
    value = config.get(key) or False
    if not isinstance(value, bool):
        raise AdapterUnsupported(path=path, field=key, value=value)
    return value


def _number(config: Mapping[str, object], key: str, path: str, *, most: float = 1e9) -> float:
    value = config.get(key, 8)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise AdapterUnsupported(path=path, field=key, value=value)
    return float(value)


def _patterns(config: Mapping[str, object], key: str, path: str) -> dict[str, float]:
    found = config.get(key) or {}
    if not isinstance(found, dict) or len(found) > _MOST_PATTERNS:
        raise AdapterUnsupported(path=path, field=key, value=found)
    for pattern in found:
        if len(pattern) > _LONGEST_PATTERN or _REPEATED_GROUP.search(pattern) or not _compiles(pattern):
            raise AdapterUnsupported(
                path=path, field=f"{key}: {pattern}"[:_LONGEST_PATTERN], value=Sentence("adapter.a_pattern")
            )
    return {pattern: _number(found, pattern, path) for pattern in found}


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _matches(pattern: str, module: str) -> bool:
    """As PEFT does: the pattern is the whole name, or its end from a dot on."""
    return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
