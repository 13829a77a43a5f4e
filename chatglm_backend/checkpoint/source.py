"""What kind of checkpoint lies in a folder: read once, into one description.

Looks at names, JSON and the first bytes of files. Loads no tensor.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from chatglm_backend.checkpoint.adapters import refuse_adapter, refuse_lone_prefix
from chatglm_backend.checkpoint.family import Choice, choose_family
from chatglm_backend.checkpoint.manifest import MANIFEST, read_manifest
from chatglm_backend.checkpoint.places import hub_name, snapshots
from chatglm_backend.checkpoint.weight_files import WeightFormat, file_fingerprint, find_weights, hash_file
from chatglm_backend.errors import CheckpointError, LfsPointerFile, MissingFile, ModelNotFound, UnsupportedQuantization
from chatglm_backend.models.config import Family, ModelConfig
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import is_lfs_pointer, read_json

TOKENIZER_FILES = (
    "ice_text.model",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint that can be read, as it was found.

    ``files`` hold the weights of a source, in order; ``thudm_bits`` are 4 or 8 where they are THUDM's, else 0.
    ``why`` it was taken for this family, ``assumed`` where only the user can know; ``reason`` adds the format.
    """

    path: Path
    name: str
    family: Family
    config_json: Mapping[str, object]
    config: ModelConfig
    format: WeightFormat | Literal["lowbit"]
    files: tuple[Path, ...]
    tokenizer_files: tuple[Path, ...]
    thudm_bits: int
    assumed: bool
    why: Sentence
    reason: Sentence

    @property
    def quantized(self) -> bool:
        """Whether its weights have lost their precision already."""
        return self.format == "lowbit" or self.packed or self.thudm_bits > 0

    @property
    def packed(self) -> bool:
        """Whether bigdl-llm saved it, its matrices in ``sym_int4``."""
        return bool(self.config_json.get("bigdl_transformers_low_bit")) and self.format != "lowbit"

    @cached_property
    def fingerprint(self) -> str:
        """A hash that changes whenever the checkpoint does; dates and places do not matter. Hexadecimal."""
        parts: list[object] = [self.family, self.config_json]
        parts += [[file.name, file_fingerprint(file)] for file in self.files]
        parts += [[file.name, hash_file(file)] for file in self.tokenizer_files]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def inspect_folder(path: Path, *, family: Family | None = None, name: str | None = None) -> CheckpointFolder:
    """Say what a folder holds; the hub cache's own folder of a model stands for its snapshot.

    ``name`` is the model's hub id where it has one.
    Raises ModelNotFound, and every CheckpointError that can be seen without loading a tensor.
    """
    path = next(iter(snapshots(path)), path)
    if not path.is_dir():
        raise ModelNotFound(path=path)
    if (path / MANIFEST).is_file():
        return _low_bit(path, family)
    refuse_adapter(path)
    name = name or hub_name(path)
    config_json = read_json(path / "config.json")
    try:
        weights = find_weights(path)
    except CheckpointError:
        _identify(path, config_json, family, name)  # what the config rules out is said first
        raise
    tensors = weights.names()
    choice, config, bits = _identify(path, config_json, family, name, tensors)
    refuse_lone_prefix(path, config_json, tensors)
    kind = Sentence(f"folder.thudm_{bits}_bit") if bits else Sentence("folder.full_precision")
    if config_json.get("bigdl_transformers_low_bit"):
        kind = Sentence("folder.saved_low_bit")
    count = len(weights.paths)
    reason = Sentence(
        "folder.is", family=choice.family, why=choice.reason, count=count, format=weights.format, kind=kind
    )
    if weights.passed_over:
        reason = Sentence("folder.other_set", found=reason, problem=weights.passed_over)
    return CheckpointFolder(
        path=path,
        name=name or path.resolve().name,
        family=choice.family,
        config_json=config_json,
        config=config,
        format=weights.format,
        files=weights.paths,
        tokenizer_files=_tokenizer_files(path),
        thudm_bits=bits,
        assumed=choice.assumed,
        why=choice.reason,
        reason=reason,
    )


def check_config(path: Path, *, family: Family | None = None, name: str | None = None) -> Family:
    """See from config.json alone which family a model is of, and that it can be used, before its weights are there.

    Raises UnsupportedFamily, UnsupportedQuantization, MissingFile or DamagedFile, CheckpointError for an adapter.
    """
    refuse_adapter(path)
    return _identify(path, read_json(path / "config.json"), family, name)[0].family


def has_complete_weights(path: Path) -> bool:
    """Whether config and one set of weight files are all there, for a folder that a download may still fill.

    Raises LfsPointerFile or DamagedFile for files that are there and wrong.
    """
    try:
        read_json(path / "config.json")
        find_weights(path)
    except MissingFile:
        return False
    return True


def _low_bit(path: Path, family: Family | None) -> CheckpointFolder:
    manifest = read_manifest(path)
    if family not in (None, manifest.family):
        raise CheckpointError(path=path, reason=Sentence("folder.converted_as", family=manifest.family, asked=family))
    why = Sentence("family.low_bit", version=manifest.format_version)
    config = ModelConfig.from_json(manifest.config, family=manifest.family, path=str(path))
    return CheckpointFolder(
        path=path,
        name=manifest.name,
        family=manifest.family,
        config_json=manifest.config,
        config=config,
        format="lowbit",
        files=(),
        tokenizer_files=(),
        thudm_bits=0,
        assumed=False,
        why=why,
        reason=Sentence("folder.low_bit", family=manifest.family, why=why),
    )


def _identify(
    path: Path,
    config: Mapping[str, object],
    family: Family | None,
    name: str | None,
    tensors: Collection[str] = (),
) -> tuple[Choice, ModelConfig, int]:
    """What config.json and the tensors' names say: the family and why, the sizes, and THUDM's bits."""
    choice = choose_family(path, config, tensors=tensors, asked=family, name=name or path.resolve().name)
    sizes = ModelConfig.from_json(config, family=choice.family, path=str(path))
    return choice, sizes, _thudm_bits(path, config, choice.family)


def _thudm_bits(path: Path, config: Mapping[str, object], family: Family) -> int:
    details, bits = config.get("quantization_config"), config.get("quantization_bit") or 0
    found: object = None
    if config.get("bigdl_transformers_low_bit", "sym_int4") not in ("sym_int4", False):
        found = Sentence("quantised.bigdl", kind=str(config["bigdl_transformers_low_bit"])[:40])
    elif details is not None:
        found = str(details.get("quant_method", "?") if isinstance(details, dict) else details)[:40]
    elif bits not in (0, 4, 8):
        found = Sentence("quantised.bits", bits=str(bits)[:40])
    elif bits and config.get("quantization_embeddings") and family != "chatglm":
        found = Sentence("quantised.embedding", bits=bits)
    if found:
        raise UnsupportedQuantization(path=path, found=found)
    return 4 if bits == 4 else 8 if bits == 8 else 0


def _tokenizer_files(path: Path) -> tuple[Path, ...]:
    """The tokenizer's files that are there. Raises LfsPointerFile where git left pointers."""
    found = tuple(path / name for name in TOKENIZER_FILES if (path / name).is_file())
    for file in found:
        if is_lfs_pointer(file):
            raise LfsPointerFile(path=file)
    return found
