"""Fine-tunes that are no models of their own: LoRA adapters and P-Tuning prefixes.

Recognised by their config and their tensors' names, and refused by name: the sentence says what the folder is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from chatglm_backend.errors import CheckpointError
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json

ADAPTER_CONFIG = "adapter_config.json"
PREFIX = "transformer.prefix_encoder."


def refuse_adapter(folder: Path) -> None:
    """Raise CheckpointError for a folder that holds an adapter of PEFT instead of a model."""
    found = read_json(folder / ADAPTER_CONFIG, optional=True)
    if found and not (folder / "config.json").is_file():
        kind, base = (str(found.get(key) or "?")[:100] for key in ("peft_type", "base_model_name_or_path"))
        raise CheckpointError(path=folder, reason=Sentence("folder.adapter", kind=kind, base=base))


def refuse_prefix(folder: Path, config: Mapping[str, object], tensors: Collection[str]) -> None:
    """Raise CheckpointError for a P-Tuning fine-tune: a whole model with a prefix, or the prefix alone."""
    prefix = sorted(name for name in tensors if name.startswith(PREFIX))
    if prefix and not any(name.startswith(("transformer.layers.", "transformer.encoder.")) for name in tensors):
        raise CheckpointError(path=folder, reason=Sentence("folder.prefix_alone", tensor=prefix[0]))
    if prefix or config.get("pre_seq_len"):
        raise CheckpointError(
            path=folder, reason=Sentence("folder.prefix", found=prefix[0] if prefix else "pre_seq_len")
        )
