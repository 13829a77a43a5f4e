"""What a folder with a fine-tune holds: which kind, which files, which base it names. Reads small files only; no torch.

Of the files beside the weights that trainers leave (optimizers, random states, arguments) none is ever opened: they are
pickles, and nothing in them is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatglm_backend.checkpoint.adapters import ADAPTER_CONFIG, LORA_FILES, PREFIX_FILES
from chatglm_backend.checkpoint.weight_files import check_weight_file
from chatglm_backend.errors import AdapterNotFound, MissingFile
from chatglm_backend.textfile import read_json

AdapterKind = Literal["lora", "prefix"]


@dataclass(frozen=True, slots=True)
class AdapterFolder:
    """One fine-tune on disk. ``base`` is what it names as its base: a hint, never trusted.

    ``config`` is PEFT's for "lora"; for "prefix" the checkpoint's own, empty where it has none.
    """

    path: Path
    name: str
    kind: AdapterKind
    file: Path
    config: Mapping[str, object]
    base: str


def is_adapter(path: Path) -> bool:
    """Whether a folder holds a LoRA adapter by its looks; prefixes show only in their tensors."""
    return (path / ADAPTER_CONFIG).is_file()


def inspect_adapter(path: Path, name: str = "") -> AdapterFolder:
    """Look at a folder. ``name`` is what requests call it; by default the folder's own.

    Raises AdapterNotFound for a folder that is none, and what reading its files raises.
    """
    name = name or path.resolve().name
    if is_adapter(path):
        config = read_json(path / ADAPTER_CONFIG)
        base = config.get("base_model_name_or_path")
        return AdapterFolder(
            path, name, "lora", _one_of(path, LORA_FILES), config, base if isinstance(base, str) else ""
        )
    if not path.is_dir() or not any((path / file).is_file() for file in PREFIX_FILES):
        raise AdapterNotFound(path=path)
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    base = config.get("_name_or_path")
    file = _one_of(path, PREFIX_FILES)
    return AdapterFolder(path, name, "prefix", file, config, base if isinstance(base, str) else "")


def _one_of(path: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (path / name).is_file():
            check_weight_file(path / name)
            return path / name
    raise MissingFile(path=path / names[0])
