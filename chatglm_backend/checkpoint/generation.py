"""The files of one generation of a low-bit checkpoint: tensors spread over files, small files copied, the manifest.

Writes into the data folder that it is given; which generation counts is ``target``'s business.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import Tensor

from chatglm_backend.checkpoint.encode import Job, stored_layout
from chatglm_backend.checkpoint.files import hash_file
from chatglm_backend.checkpoint.manifest import FileRecord, Manifest
from chatglm_backend.checkpoint.readers import SourceTensors
from chatglm_backend.checkpoint.source import CheckpointFolder, tokenizer_files
from chatglm_backend.checkpoint.writer import Opener, StreamWriter, TensorLayout, open_for_writing, tensor_bytes

__all__ = ["FILE_BYTES", "TensorFiles", "build_manifest", "copy_small_files"]

FILE_BYTES = 1 << 30
"""About how large a file of matrices gets, in bytes."""


class TensorFiles:
    """Spreads tensors over files: vectors in one, matrices in files of about 1 GiB, a tied second use in its own."""

    def __init__(
        self, folder: Path, jobs: tuple[Job, ...], *, file_bytes: int = FILE_BYTES, opener: Opener = open_for_writing
    ) -> None:
        self._folder = folder
        self._opener = opener
        self._layouts = _assign(jobs, file_bytes)
        self._file_of = {name: file for file, layout in self._layouts.items() for name in layout}
        self._left = {file: sum(map(tensor_bytes, layout.values())) for file, layout in self._layouts.items()}
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
        self._writers[file].write(piece)
        self._left[file] -= piece.nbytes
        if not self._left[file]:
            self._records[file] = self._writers[file].finish()

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
    copies = [config]
    for file in tokenizer_files(source.path):
        copies.append(data / file.name)
        shutil.copyfile(file, copies[-1])
    for file in copies:
        with file.open("rb+") as opened:
            os.fsync(opened.fileno())
        records[file.name] = FileRecord(file.stat().st_size, hash_file(file))
    return records


def build_manifest(
    source: CheckpointFolder, tensors: SourceTensors, data: str, identity: str, files: Mapping[str, FileRecord]
) -> Manifest:
    """The manifest of the generation in the folder called ``data``."""
    config = source.config
    return Manifest(
        name=source.name,
        family=source.family,
        data=data,
        parameters=_parameters(tensors),
        source_fingerprint=identity,
        config=source.config_json,
        dims=json.loads(json.dumps(asdict(config))),
        versions={
            "python": platform.python_version(),
            **{name: _version(name) for name in ("chatglm-cpu", "torch", "bigdl-llm", "safetensors")},
        },
        files=files,
    )


def _assign(jobs: tuple[Job, ...], file_bytes: int) -> dict[str, dict[str, TensorLayout]]:
    files: dict[str, dict[str, TensorLayout]] = {}
    second: dict[str, dict[str, TensorLayout]] = {}
    number, size = 1, 0
    for job in jobs:
        spec = job.targets[0]
        layout = stored_layout(spec)
        if spec.kind == "vector":
            files.setdefault("vectors.safetensors", {})[spec.name] = layout
        else:
            if size and size + tensor_bytes(layout) > file_bytes:
                number, size = number + 1, 0
            size += tensor_bytes(layout)
            files.setdefault(f"weights-{number:05}.safetensors", {})[spec.name] = layout
        for extra in job.targets[1:]:
            second[f"output-{len(second) + 1:05}.safetensors"] = {extra.name: stored_layout(extra)}
    return {**files, **second}


def _parameters(tensors: SourceTensors) -> int:
    """The weights of the original model, a tied tensor counted once."""
    counted: dict[str, int] = {}
    for spec in tensors.specs:
        size = 1
        for n in spec.shape:
            size *= n
        counted[tensors.get(spec.name).name] = size
    return sum(counted.values())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
