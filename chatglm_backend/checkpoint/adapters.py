"""The files of fine-tunes, LoRA adapters and P-Tuning prefixes; and what is said of one that is given as a model.

Recognised by their config and their tensors' names; the sentence says what the folder is, and how to use it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from chatglm_backend.checkpoint.places import hub_name, on_this_machine
from chatglm_backend.checkpoint.weight_files import tensor_names
from chatglm_backend.errors import CheckpointError
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json

ADAPTER_CONFIG = "adapter_config.json"
LORA_FILES = ("adapter_model.safetensors", "adapter_model.bin")
PREFIX_FILES = ("model.safetensors", "pytorch_model.bin")
PREFIX = "transformer.prefix_encoder."
PREFIX_ROWS = f"{PREFIX}rows"
"""The finished rows of a prefix in a low-bit checkpoint: fp32 [2 * layers, kv_heads, rows, head_dim]."""


def holds_adapter(folder: Path) -> bool:
    """Whether a fine-tune's weights are there, for a folder that a download may still fill."""
    files = LORA_FILES if (folder / ADAPTER_CONFIG).is_file() else PREFIX_FILES
    return any((folder / file).is_file() for file in files)


def base_of(folder: Path) -> str:
    """What an adapter of PEFT names as its base; empty where it names none."""
    return str(read_json(folder / ADAPTER_CONFIG, optional=True).get("base_model_name_or_path") or "")


def adapts_a_family(folder: Path) -> bool:
    """Whether a LoRA's tensors have names of our families' products."""
    names = [name for file in LORA_FILES if (folder / file).is_file() for name in tensor_names(folder / file)]
    return any("transformer.encoder.layers." in name or "attention.query_key_value" in name for name in names)


def holds_lone_prefix(folder: Path) -> bool:
    """Whether a folder's weights are the prefix of a P-Tuning fine-tune without its model."""
    return any(_lone_prefix(tensor_names(folder / file)) for file in PREFIX_FILES if (folder / file).is_file())


def wanted_adapter_files(names: tuple[str, ...]) -> tuple[str, ...]:
    """Of a hub's files the config and one file of weights; a prefix is never spread over several."""
    config, files = (ADAPTER_CONFIG, LORA_FILES) if ADAPTER_CONFIG in names else ("config.json", PREFIX_FILES)
    return tuple(name for name in (config, *[file for file in files if file in names][:1]) if name in names)


def refuse_adapter(folder: Path) -> None:
    """Raise CheckpointError for a folder that holds an adapter of PEFT instead of a model."""
    found = read_json(folder / ADAPTER_CONFIG, optional=True)
    if found and not any(True for kind in ("model*.safetensors", "pytorch_model*.bin") for _ in folder.glob(kind)):
        what = Sentence("folder.kind_adapter", kind=str(found.get("peft_type") or "?")[:100])
        raise _refused(folder, what, base_of(folder))


def refuse_lone_prefix(folder: Path, config: Mapping[str, object], tensors: Collection[str]) -> None:
    """Raise CheckpointError for the prefix of a P-Tuning fine-tune without its model."""
    if (tensor := _lone_prefix(tensors)) is not None:
        raise _refused(folder, Sentence("folder.kind_prefix", tensor=tensor), config.get("_name_or_path"))


def base_here(named: str, env: Mapping[str, str] = os.environ) -> str | None:
    """The base that a config names, as ``--model`` takes it, where that is on this machine.

    What it names is often a path of the machine that trained, whose last part tells which model it was.
    """
    names = (named, f"THUDM/{named.rstrip('/').rpartition('/')[2]}") if named else ()
    return next((name for name in names if on_this_machine(name, env)), None)


def _lone_prefix(tensors: Collection[str]) -> str | None:
    prefix = min((name for name in tensors if name.startswith(PREFIX)), default=None)
    model = any(name.startswith(("transformer.layers.", "transformer.encoder.")) for name in tensors)
    return None if model else prefix


def _refused(folder: Path, what: Sentence, named: object) -> CheckpointError:
    """With the command that works."""
    base = str(named or "BASE")[:100]
    here = base_here(base)
    fields = {"what": what, "base": here or base, "adapter": hub_name(folder) or folder}
    return CheckpointError(path=folder, reason=Sentence("folder.adapter" if here else "folder.adapter_away", **fields))
