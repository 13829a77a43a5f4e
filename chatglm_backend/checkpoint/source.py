"""What kind of checkpoint lies in a folder: format, family, quantisation, and why we think so.

Looks at names, JSON and the first bytes of files; code that comes with a checkpoint is
read as text at most, never run. Loads no tensor.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from chatglm_backend.checkpoint.files import check_weight_file, file_fingerprint
from chatglm_backend.checkpoint.manifest import MANIFEST, read_manifest
from chatglm_backend.errors import (
    CheckpointError,
    DamagedFile,
    LfsPointerFile,
    MissingFile,
    ModelNotFound,
    UnsupportedQuantization,
)
from chatglm_backend.models.config import Family, ModelConfig, family_named_in
from chatglm_backend.textfile import is_lfs_pointer, read_json

__all__ = [
    "CheckpointFolder",
    "CheckpointFormat",
    "check_config",
    "fingerprint",
    "has_complete_weights",
    "inspect_folder",
    "tokenizer_files",
    "weight_files",
]

CheckpointFormat = Literal["bin", "safetensors", "lowbit"]

TOKENIZER_FILES = ("ice_text.model", "tokenizer.model", "tokenizer_config.json")
_MAX_SOURCE_TEXT = 1_000_000
# The stem and suffix of the weights' names, in order of preference.
_WEIGHT_NAMES: tuple[tuple[CheckpointFormat, str, str], ...] = (
    ("safetensors", "model", ".safetensors"),
    ("bin", "pytorch_model", ".bin"),
)


@dataclass(frozen=True, slots=True)
class CheckpointFolder:
    """A checkpoint that can be read: ``reason`` says why it was taken for this family and format."""

    path: Path
    name: str
    family: Family
    config_json: Mapping[str, object]
    format: CheckpointFormat
    quantized: bool
    reason: str

    @property
    def config(self) -> ModelConfig:
        """The sizes and special ids that the config gives."""
        return ModelConfig.from_json(self.config_json, family=self.family, path=str(self.path))


def inspect_folder(path: Path, *, family: Family | None = None, name: str | None = None) -> CheckpointFolder:
    """Say what a folder holds. ``name`` is the model's hub id where it has one.

    Raises ModelNotFound, and every CheckpointError that can be seen without loading a tensor.
    """
    if not path.is_dir():
        raise ModelNotFound(path=path)
    if (path / MANIFEST).is_file():
        return _low_bit(path, family)
    config, chosen, why, quantized = _identify(path, family, name)
    weight_format, files, note = _weights(path)
    kind = "THUDM's 4-bit form" if quantized else "full precision"
    reason = f"{chosen}: {why}; {len(files)} {weight_format} file(s), {kind}{note}"
    return CheckpointFolder(path, name or path.resolve().name, chosen, config, weight_format, quantized, reason)


def check_config(path: Path, *, family: Family | None = None, name: str | None = None) -> Family:
    """See from config.json alone which family a model is of, and that it can be used, before its weights are there.

    Raises UnsupportedFamily, UnsupportedQuantization, MissingFile or DamagedFile.
    """
    return _identify(path, family, name)[1]


def has_complete_weights(path: Path) -> bool:
    """Whether config and one set of weight files are all there, for a folder that a download may still fill.

    Raises LfsPointerFile or DamagedFile for files that are there and wrong.
    """
    try:
        read_json(path / "config.json")
        _weights(path)
    except MissingFile:
        return False
    return True


def weight_files(folder: CheckpointFolder) -> tuple[Path, ...]:
    """The files that hold the weights of a source checkpoint, in order."""
    for weight_format, stem, suffix in _WEIGHT_NAMES:
        if weight_format == folder.format:
            return _listed(folder.path, stem, suffix)
    raise CheckpointError(path=folder.path, reason="it is a low-bit checkpoint already")


def tokenizer_files(path: Path) -> tuple[Path, ...]:
    """The tokenizer's files that are there. Raises LfsPointerFile where git left pointers."""
    found = tuple(path / name for name in TOKENIZER_FILES if (path / name).is_file())
    for file in found:
        if file.suffix == ".model" and is_lfs_pointer(file):
            raise LfsPointerFile(path=file)
    return found


def fingerprint(folder: CheckpointFolder) -> str:
    """A hash that changes whenever the checkpoint does; dates and places do not matter. Hexadecimal."""
    parts: list[object] = [folder.family, folder.config_json]
    parts += [[file.name, file_fingerprint(file)] for file in weight_files(folder)]
    parts += [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in tokenizer_files(folder.path)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _low_bit(path: Path, family: Family | None) -> CheckpointFolder:
    manifest = read_manifest(path)
    if family not in (None, manifest.family):
        raise CheckpointError(path=path, reason=f"it was converted as {manifest.family}, not {family}")
    reason = f"{manifest.family}: a low-bit checkpoint, format {manifest.format_version}"
    return CheckpointFolder(
        path, manifest.name, manifest.family, manifest.config, "lowbit", quantized=True, reason=reason
    )


def _identify(path: Path, family: Family | None, name: str | None) -> tuple[Mapping[str, object], Family, str, bool]:
    """What config.json says: the config itself, the family and why, and whether the weights have 4 bits."""
    config = read_json(path / "config.json")
    asked, why = _choose_family(path, config, family, name)
    chosen = ModelConfig.from_json(config, family=asked, path=str(path)).family
    return config, chosen, why, _quantization(path, config)


def _quantization(path: Path, config: Mapping[str, object]) -> bool:
    if "quantization_config" in config:
        details = config["quantization_config"]
        method = details.get("quant_method", "unknown") if isinstance(details, dict) else "unknown"
        raise UnsupportedQuantization(path=path, found=str(method))
    bits = config.get("quantization_bit") or 0
    if bits not in (0, 4):
        raise UnsupportedQuantization(path=path, found=f"{bits}-bit integers")
    if bits and config.get("quantization_embeddings"):
        raise UnsupportedQuantization(path=path, found="4-bit integers, the embedding included")
    return bool(bits)


def _choose_family(
    path: Path, config: Mapping[str, object], asked: Family | None, name: str | None
) -> tuple[Family | None, str]:
    if asked:
        return asked, "chosen with --family"
    if "inner_hidden_size" in config:
        return "chatglm", "its config has ChatGLM-6B's keys"
    if "padded_vocab_size" not in config:
        return None, ""
    for text, where in ((name or "", "its hub id"), (str(config.get("_name_or_path", "")), "its config")):
        if family_named_in(text):
            return family_named_in(text), f"{where} names {text}"
    for folder in (path.resolve(), *path.resolve().parents[:3]):
        if family_named_in(folder.name):
            return family_named_in(folder.name), f"the folder is called {folder.name}"
    if _has_role_tokens(path):
        return "chatglm3", "its tokenizer knows the role <|user|>"
    return "chatglm2", "nothing in the folder names ChatGLM3 (use --family chatglm3 if it is one)"


def _has_role_tokens(path: Path) -> bool:
    for name in ("tokenization_chatglm.py", "tokenizer_config.json"):
        file = path / name
        if file.is_file() and file.stat().st_size <= _MAX_SOURCE_TEXT and b"<|user|>" in file.read_bytes():
            return True
    return False


def _weights(path: Path) -> tuple[CheckpointFormat, tuple[Path, ...], str]:
    """The first complete set of weight files; the first set's error where none is complete."""
    first_error: CheckpointError | None = None
    for weight_format, stem, suffix in _WEIGHT_NAMES:
        files, error = _checked(path, stem, suffix)
        first_error = first_error or error
        if files:
            note = f" ({first_error} The other set is complete.)" if first_error else ""
            return weight_format, files, note
    raise first_error or MissingFile(path=path / "pytorch_model.bin")


def _checked(path: Path, stem: str, suffix: str) -> tuple[tuple[Path, ...], CheckpointError | None]:
    try:
        files = _listed(path, stem, suffix)
        for file in files:
            check_weight_file(file)
    except CheckpointError as error:
        return (), error
    return files, None


def _listed(path: Path, stem: str, suffix: str) -> tuple[Path, ...]:
    index = path / f"{stem}{suffix}.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not names or not all(isinstance(v, str) for v in names.values()):
            raise DamagedFile(path=index, reason="it has no weight_map")
        listed = sorted(set(names.values()))
        if any(Path(name).name != name or "\\" in name for name in listed):
            raise DamagedFile(path=index, reason="it points outside its folder")
        return tuple(path / name for name in listed)
    if (path / f"{stem}{suffix}").is_file():
        return (path / f"{stem}{suffix}",)
    return _numbered(path, stem, suffix)


def _numbered(path: Path, stem: str, suffix: str) -> tuple[Path, ...]:
    pattern = re.compile(re.escape(stem) + r"-(\d{5})-of-(\d{5})" + re.escape(suffix))
    found = {int(m[1]): (file, int(m[2])) for file in path.iterdir() if (m := pattern.fullmatch(file.name))}
    if not found:
        return ()
    total = max(count for _, count in found.values())
    return tuple(
        found[i][0] if i in found else path / f"{stem}-{i:05}-of-{total:05}{suffix}" for i in range(1, total + 1)
    )
