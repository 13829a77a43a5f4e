"""The manifest of a low-bit checkpoint: what is in the folder, which generation of files counts, and their hashes.

A folder holds ``manifest.json`` and one ``data-…`` folder that it names; replacing the manifest
switches from the old data to the new in one step. ``local.json`` remembers what is true on
this machine only. Knows nothing of tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import get_args

from chatglm_backend.checkpoint.weight_files import hash_file
from chatglm_backend.errors import CheckpointError, DamagedFile, DamagedLowBit
from chatglm_backend.leftovers import remove_leftovers
from chatglm_backend.models.config import Family
from chatglm_backend.sentences import Sentence
from chatglm_backend.textfile import read_json

MANIFEST = "manifest.json"
LOCAL = "local.json"
FORMAT = "chatglm-low-bit"
FORMAT_VERSION = 1
_SMALL = 4 << 20
"""Files of so many bytes are hashed at every start: that takes milliseconds."""
_FAMILIES: Mapping[str, Family] = {family: family for family in get_args(Family)}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file's size in bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a low-bit checkpoint says about itself. ``data`` is the folder of the generation that counts.

    ``merged`` has the name and the hash of a fine-tune that was added to the weights.
    """

    name: str
    family: Family
    data: str
    parameters: int
    source_fingerprint: str
    config: Mapping[str, object]
    dims: Mapping[str, object]
    versions: Mapping[str, str]
    files: Mapping[str, FileRecord]
    quantization: str = "sym_int4"
    block_size: int = 64
    format_version: int = FORMAT_VERSION
    merged: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """A hash of the tensors and of what is computed with them."""
        return _checksum(
            {"files": {name: asdict(record) for name, record in self.files.items()}, "config": self.config}
        )

    @property
    def nbytes(self) -> int:
        """The size of all files, in bytes."""
        return sum(record.size for record in self.files.values())


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json``. Raises MissingFile, DamagedLowBit, or CheckpointError for another format."""
    path = folder / MANIFEST
    try:
        raw = read_json(path)
    except DamagedFile as error:
        raise DamagedLowBit(**error.fields) from error
    if raw.pop("format", None) != FORMAT:
        raise CheckpointError(path=folder, reason=Sentence("folder.not_low_bit"))
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            path=folder, reason=Sentence("folder.format_version", found=str(version)[:40], expected=FORMAT_VERSION)
        )
    if raw.pop("checksum", None) != _checksum({"format": FORMAT, **raw}):
        raise DamagedLowBit(path=path, reason=Sentence("file.checksum"))
    try:
        return _parse(raw)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedLowBit(path=path, reason=Sentence("file.entries")) from None


def manifest_in(folder: Path) -> Manifest | None:
    """The manifest of a folder that has a readable one."""
    try:
        return read_manifest(folder)
    except (CheckpointError, OSError):
        return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Switch the folder to this manifest, in one step."""
    raw = {"format": FORMAT, **asdict(manifest)}
    write_json_atomic(folder / MANIFEST, {**raw, "checksum": _checksum(raw)})


def verify_files(folder: Path, manifest: Manifest, *, full: bool = False) -> bool:
    """Check the data files: sizes always; hashes of all when ``full``, else of small ones and those that have changed.

    Returns whether all were hashed. Raises DamagedLowBit, naming the file; what was noted as right is forgotten then.
    """
    stamps = {} if full else read_noted(folder / LOCAL).get("verified")
    stamps = stamps if isinstance(stamps, dict) else {}
    suspects: list[tuple[Path, FileRecord]] = []
    for name, record in manifest.files.items():
        path = folder / manifest.data / name
        if not path.is_file():
            raise DamagedLowBit(path=path, reason=Sentence("file.missing"))
        size = path.stat().st_size
        if size != record.size:
            raise DamagedLowBit(path=path, reason=Sentence("file.size", found=size, expected=record.size))
        if size <= _SMALL or stamps.get(f"{manifest.data}/{name}") != _stamp(path, record):
            suspects.append((path, record))
    with ThreadPoolExecutor(max_workers=min(4, max(1, len(suspects)))) as pool:
        digests = list(pool.map(hash_file, (path for path, _ in suspects)))
    for (path, record), digest in zip(suspects, digests, strict=True):
        if digest != record.sha256:
            _forget_verified(folder)
            raise DamagedLowBit(path=path, reason=Sentence("file.changed"))
    if any(record.size > _SMALL for _, record in suspects):
        remember_verified(folder, manifest)
    return len(suspects) == len(manifest.files)


def remember_verified(folder: Path, manifest: Manifest, *, source: Path | None = None) -> None:
    """Note that all files are right as they lie there now. A folder that cannot be written is left alone."""
    local = read_noted(folder / LOCAL)
    local["verified"] = {
        f"{manifest.data}/{name}": _stamp(folder / manifest.data / name, record)
        for name, record in manifest.files.items()
    }
    if source is not None:
        local["source"] = str(source)
    with contextlib.suppress(OSError):
        write_json_atomic(folder / LOCAL, local)


def _forget_verified(folder: Path) -> None:
    local = read_noted(folder / LOCAL)
    local.pop("verified", None)
    with contextlib.suppress(OSError):
        write_json_atomic(folder / LOCAL, local)


def read_noted(path: Path) -> dict[str, object]:
    """What was noted in a JSON file of ours; empty where there is none or it cannot be read."""
    try:
        return read_json(path)
    except (CheckpointError, OSError):
        return {}


def write_json_atomic(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON file so that readers see the old one or the new one, also after a power cut."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            json.dump(value, file, ensure_ascii=False, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    remove_leftovers(path.parent, f"{path.name}.*.tmp")
    fsync_folder(path.parent)


def fsync_folder(path: Path) -> None:
    """Make new names in a folder durable, where the system can do that."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stamp(path: Path, record: FileRecord) -> list[object]:
    return [record.sha256, record.size, path.stat().st_mtime_ns]


def _checksum(raw: Mapping[str, object]) -> str:
    return hashlib.sha256(
        json.dumps(raw, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


def _parse(raw: Mapping[str, object]) -> Manifest:
    """The fields in their types. Raises KeyError, TypeError, ValueError or AttributeError."""
    found: dict[str, dict[str, object]] = {}
    for key in ("config", "dims", "versions", "files"):
        value = raw[key]
        if not isinstance(value, dict):
            raise TypeError
        found[key] = value
    records = {name: FileRecord(int(f["size"]), str(f["sha256"])) for name, f in found["files"].items()}  # type: ignore[index]
    names = [str(raw["data"]), *records]
    if any(Path(name).name != name or "\\" in name for name in names):
        raise ValueError
    return Manifest(
        name=str(raw["name"]),
        family=_FAMILIES[str(raw["family"])],
        data=str(raw["data"]),
        parameters=int(str(raw["parameters"])),
        source_fingerprint=str(raw["source_fingerprint"]),
        config=found["config"],
        dims=found["dims"],
        versions={str(k): str(v) for k, v in found["versions"].items()},
        files=records,
        merged={str(k): str(v) for k, v in dict(raw.get("merged", {})).items()},  # type: ignore[call-overload]
        quantization=str(raw["quantization"]),
        block_size=int(str(raw["block_size"])),
    )
