"""The files of one generation of a low-bit checkpoint: tensors spread over files, small files copied, the manifest.

Writes into the data folder that it is given; which generation counts is ``target``'s business.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import Tensor

from chatglm_backend.checkpoint.adapters import PREFIX_ROWS
from chatglm_backend.checkpoint.encode import Merge
from chatglm_backend.checkpoint.manifest import FileRecord, Manifest
from chatglm_backend.checkpoint.plan import Plan
from chatglm_backend.checkpoint.source import CheckpointFolder
from chatglm_backend.checkpoint.weight_files import hash_file
from chatglm_backend.checkpoint.writer import Opener, StreamWriter, TensorLayout, open_for_writing, tensor_bytes
from chatglm_backend.models.layout import parameter_count

FILE_BYTES = 1 << 30
"""About how large a file of matrices gets, in bytes."""


class TensorFiles:
    """Spreads tensors over files: vectors in one, matrices in files of about 1 GiB, a tied second use in its own.

    So has the prefix of a whole P-Tuning fine-tune.
    """

    def __init__(
        self, folder: Path, plan: Plan, *, file_bytes: int = FILE_BYTES, opener: Opener = open_for_writing
    ) -> None:
        self._folder = folder
        self._opener = opener
        self._layouts = _assign(plan, file_bytes)
        self._file_of = {name: file for file, layout in self._layouts.items() for name in layout}
        self._writers: dict[str, StreamWriter] = {}
        self._records: dict[str, FileRecord] = {}

    def __enter__(self) -> TensorFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def take(self, name: str, piece: Tensor) -> None:
        """Write the next rows of a tensor; a file is made durable with its last row."""
        file = self._file_of[name]
        if file not in self._writers:
            self._writers[file] = StreamWriter(self._folder / file, self._layouts[file], self._opener)
        writer = self._writers[file]
        writer.write(piece)
        if not writer.left:
            self._records[file] = writer.finish()

    def finish(self) -> dict[str, FileRecord]:
        """The records of all files. Raises ValueError where rows are missing."""
        missing = set(self._layouts) - set(self._records)
        if missing:
            raise ValueError(f"unfinished: {sorted(missing)}")
        return self._records


def copy_small_files(source: CheckpointFolder, data: Path) -> dict[str, FileRecord]:
    """Put config and tokenizer into ``data``, made durable, and return their records."""
    records = {}
    config = data / "config.json"
    config.write_text(json.dumps(source.config_json, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    for file in (config, *source.tokenizer_files):
        copy = data / file.name
        if file is not config:
            shutil.copyfile(file, copy)
        with copy.open("rb+") as opened:
            os.fsync(opened.fileno())
        records[copy.name] = FileRecord(copy.stat().st_size, hash_file(copy))
    return records


def fingerprint_of(source: CheckpointFolder, merge: Merge | None) -> str:
    """A hash that changes with the source and with what is merged into it."""
    if merge is None:
        return source.fingerprint
    return hashlib.sha256(f"{source.fingerprint} {merge.identity}".encode()).hexdigest()


def build_manifest(
    source: CheckpointFolder, data: str, files: Mapping[str, FileRecord], merge: Merge | None = None
) -> Manifest:
    """The manifest of the generation in the folder called ``data``."""
    return Manifest(
        name=f"{source.name}+{merge.name}" if merge else source.name,
        merged={"name": merge.name, "identity": merge.identity} if merge else {},
        family=source.family,
        data=data,
        parameters=parameter_count(source.config),
        source_fingerprint=fingerprint_of(source, merge),
        config=source.config_json,
        dims=json.loads(json.dumps(asdict(source.config))),
        versions={
            "python": platform.python_version(),
            **{name: _version(name) for name in ("chatglm-cpu", "torch", "bigdl-llm", "safetensors")},
        },
        files=files,
    )


def _assign(plan: Plan, file_bytes: int) -> dict[str, dict[str, TensorLayout]]:
    """The tensors of each file, in the order in which they are made."""
    files: dict[str, dict[str, TensorLayout]] = {}
    number, size, second = 1, 0, 0
    for job in plan.jobs:
        for place, spec in enumerate(job.targets):
            layout = plan.layouts[spec.name]
            if job.first:
                continue  # goes on where its first part lies
            if place:
                second += 1
                file = f"output-{second:05}.safetensors"
            elif spec.kind == "vector":
                file = "vectors.safetensors"
            else:
                if size and size + tensor_bytes(layout) > file_bytes:
                    number, size = number + 1, 0
                size += tensor_bytes(layout)
                file = f"weights-{number:05}.safetensors"
            files.setdefault(file, {})[spec.name] = layout
    if plan.prefix is not None:
        files["prefix.safetensors"] = {PREFIX_ROWS: plan.layouts[PREFIX_ROWS]}
    return files


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
