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
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from chatglm_backend.checkpoint.files import hash_file
from chatglm_backend.errors import CheckpointError, DamagedFile, DamagedLowBit, MissingFile
from chatglm_backend.models.config import Family
from chatglm_backend.textfile import read_json

__all__ = [
    "FORMAT_VERSION",
    "MANIFEST",
    "FileRecord",
    "Manifest",
    "fsync_folder",
    "read_local",
    "read_manifest",
    "remember_verified",
    "verify_files",
    "write_json_atomic",
    "write_manifest",
]

MANIFEST = "manifest.json"
LOCAL = "local.json"
FORMAT = "chatglm-low-bit"
FORMAT_VERSION = 1
_FAMILIES: dict[str, Family] = {"chatglm": "chatglm", "chatglm2": "chatglm2", "chatglm3": "chatglm3"}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file's size in bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a low-bit checkpoint says about itself. ``data`` is the folder of the generation that counts."""

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

    @property
    def nbytes(self) -> int:
        """The size of all files, in bytes."""
        return sum(record.size for record in self.files.values())


def read_manifest(folder: Path) -> Manifest:
    """Read and check ``manifest.json``. Raises DamagedFile, or CheckpointError for another format."""
    path = folder / MANIFEST
    try:
        raw = read_json(path)
    except DamagedFile as error:
        raise DamagedLowBit(**error.fields) from error
    if raw.get("format") != FORMAT:
        raise CheckpointError(path=folder, reason="its manifest.json is not a low-bit checkpoint's")
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            path=folder, reason=f"it has format version {version}, this program reads {FORMAT_VERSION}; convert again"
        )
    checksum = raw.pop("checksum", None)
    if checksum != _checksum(raw):
        raise DamagedLowBit(path=path, reason="its checksum is wrong")
    try:
        return _parse(raw)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DamagedLowBit(path=path, reason="entries are missing or of the wrong kind") from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Switch the folder to this manifest, in one step."""
    raw = {"format": FORMAT, **asdict(manifest)}
    write_json_atomic(folder / MANIFEST, {**raw, "checksum": _checksum(raw)})


def verify_files(
    folder: Path, manifest: Manifest, *, full: bool, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Check the data files: sizes always; hashes of all when ``full``, else of those changed since the last full check.

    Raises MissingFile or DamagedLowBit, naming the file.
    """
    stamps = {} if full else read_local(folder).get("verified")
    stamps = stamps if isinstance(stamps, dict) else {}
    suspects: list[tuple[Path, FileRecord]] = []
    for name, record in manifest.files.items():
        path = folder / manifest.data / name
        if not path.is_file():
            raise DamagedLowBit(path=path, reason="it is missing")
        stat = path.stat()
        if stat.st_size != record.size:
            raise DamagedLowBit(path=path, reason=f"it has {stat.st_size} bytes instead of {record.size}")
        if stamps.get(f"{manifest.data}/{name}") != _stamp(path, record):
            suspects.append((path, record))
    if not suspects:
        return
    with ThreadPoolExecutor(max_workers=min(4, len(suspects))) as pool:
        digests = list(pool.map(lambda item: hash_file(item[0], on_bytes), suspects))
    for (path, record), digest in zip(suspects, digests, strict=True):
        if digest != record.sha256:
            raise DamagedLowBit(path=path, reason="its contents have changed")
    remember_verified(folder, manifest)


def remember_verified(folder: Path, manifest: Manifest, *, source: Path | None = None) -> None:
    """Note that all files are right as they lie there now. A folder that cannot be written is left alone."""
    local = read_local(folder)
    local["verified"] = {
        f"{manifest.data}/{name}": _stamp(folder / manifest.data / name, record)
        for name, record in manifest.files.items()
    }
    if source is not None:
        local["source"] = str(source)
    with contextlib.suppress(OSError):
        write_json_atomic(folder / LOCAL, local)


def read_local(folder: Path) -> dict[str, object]:
    """What was noted about this folder on this machine; empty where there is nothing or it cannot be read."""
    try:
        return read_json(folder / LOCAL)
    except (MissingFile, CheckpointError, OSError):
        return {}


def write_json_atomic(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON file so that readers see the old one or the new one, also after a power cut."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        json.dump(value, file, ensure_ascii=False, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
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
    return hashlib.sha256(json.dumps(raw, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _parse(raw: dict[str, object]) -> Manifest:
    config, dims, versions, files = raw["config"], raw["dims"], raw["versions"], raw["files"]
    data, parameters = raw["data"], raw["parameters"]
    if not (isinstance(config, dict) and isinstance(dims, dict) and isinstance(versions, dict)):
        raise TypeError
    if not isinstance(files, dict) or not isinstance(parameters, int) or not isinstance(data, str):
        raise TypeError
    names = [data, *files]
    if any(Path(name).name != name or "\\" in name for name in names):
        raise ValueError
    return Manifest(
        name=str(raw["name"]),
        family=_FAMILIES[str(raw["family"])],
        data=data,
        parameters=parameters,
        source_fingerprint=str(raw["source_fingerprint"]),
        config=config,
        dims=dims,
        versions={str(k): str(v) for k, v in versions.items()},
        files={name: FileRecord(int(f["size"]), str(f["sha256"])) for name, f in files.items()},
        quantization=str(raw["quantization"]),
        block_size=int(str(raw["block_size"])),
    )
