"""Fine-tunes given as models: LoRA adapters and P-Tuning prefixes.

Recognised by their config and their tensors' names; the sentence says what the folder is, and how to use it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from chatglm_backend.errors import CheckpointError
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json

ADAPTER_CONFIG = "adapter_config.json"
PREFIX = "transformer.prefix_encoder."
PREFIX_ROWS = f"{PREFIX}rows"
"""The finished rows of a prefix in a low-bit checkpoint: fp32 [2 * layers, kv_heads, rows, head_dim]."""


def refuse_adapter(folder: Path) -> None:
    """Raise CheckpointError for a folder that holds an adapter of PEFT instead of a model."""
    found = read_json(folder / ADAPTER_CONFIG, optional=True)
    if found and not (folder / "config.json").is_file():
        kind = str(found.get("peft_type") or "?")[:100]
        base = _base(found, "base_model_name_or_path")
        raise CheckpointError(path=folder, reason=Sentence("folder.adapter", kind=kind, base=base, folder=folder))


def refuse_lone_prefix(folder: Path, config: Mapping[str, object], tensors: Collection[str]) -> None:
    """Raise CheckpointError for the prefix of a P-Tuning fine-tune without its model."""
    prefix = sorted(name for name in tensors if name.startswith(PREFIX))
    if prefix and not any(name.startswith(("transformer.layers.", "transformer.encoder.")) for name in tensors):
        base = _base(config, "_name_or_path")
        reason = Sentence("folder.prefix_alone", tensor=prefix[0], base=base, folder=folder)
        raise CheckpointError(path=folder, reason=reason)


def _base(config: Mapping[str, object], key: str) -> str:
    """The base that a config names; only a hint, as it is often a path of the machine that trained."""
    return str(config.get(key) or "BASE")[:100]
