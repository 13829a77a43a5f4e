"""Conversion: the right bytes, little memory, and never a half-made checkpoint."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from refusals import refused
from torch import Tensor

from chatglm_backend.checkpoint.convert import ConvertOptions, convert, convert_in_memory
from chatglm_backend.checkpoint.encode import SLICE_BYTES, workers
from chatglm_backend.checkpoint.known import low_bit_bytes
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.checkpoint.manifest import MANIFEST, read_manifest, verify_files
from chatglm_backend.checkpoint.plan import make_plan, read_dense
from chatglm_backend.checkpoint.preflight import Room
from chatglm_backend.checkpoint.source import CheckpointFolder, inspect_folder
from chatglm_backend.checkpoint.thudm import dequantize_rows, reencode_rows
from chatglm_backend.checkpoint.writer import open_for_writing
from chatglm_backend.core import CancelToken, LoadProgress
from chatglm_backend.errors import (
    CheckpointError,
    ConfigError,
    DamagedFile,
    LoadCancelled,
    NotEnoughDisk,
    NotEnoughMemory,
)
from chatglm_backend.int4.blocks import dequantize
from chatglm_backend.models.layout import tensor_specs
from tests.tiny import build_checkpoint
from tests.unit.checkpoint_helpers import SMALL, quantize


@pytest.fixture
def source(tmp_path: Path) -> CheckpointFolder:
    """Return a small ChatGLM2-6B folder."""
    return inspect_folder(build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2"))


@pytest.fixture
def target(source: CheckpointFolder, tmp_path: Path) -> Path:
    """Return its conversion."""
    return convert(source, tmp_path / "low-bit", quantize=quantize, options=SMALL)


def generations(target: Path) -> list[str]:
    """Return the data folders that are there."""
    return sorted(path.name for path in target.glob("data-*"))


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "chatglm3"])
def test_bytes_are_those_of_the_quantiser(tmp_path: Path, family: str) -> None:
    """Whatever the slices and files, each tensor holds what quantising it at once gives."""
    source = inspect_folder(build_checkpoint(tmp_path / "m", family))  # type: ignore[arg-type]
    made = open_low_bit(convert(source, tmp_path / "low-bit", quantize=quantize, options=SMALL))
    dense = read_dense(source)
    for spec in tensor_specs(source.config):
        weight = dense[spec.name]
        expected = {"vector": weight.float(), "embedding": weight.half()}.get(spec.kind)
        if expected is None:
            expected = quantize(weight.float())
        assert torch.equal(expected, made.get(spec.name)), spec.name
    assert made.names() == frozenset(spec.name for spec in tensor_specs(source.config))


def test_folder_is_self_contained(source: CheckpointFolder, target: Path, tmp_path: Path) -> None:
    """Moved to another place without its source, the folder still opens, tokenizer and config included."""
    moved = tmp_path / "张三" / "moved"
    shutil.copytree(target, moved)
    shutil.rmtree(source.path)
    shutil.rmtree(target)
    made = open_low_bit(moved)
    assert source.config == made.config
    assert (made.tokenizer_folder / "tokenizer.model").is_file()
    assert json.loads((made.tokenizer_folder / "config.json").read_text()) == source.config_json


def test_memory_gives_the_same_tensors(source: CheckpointFolder, target: Path) -> None:
    """Converting without a cache gives the same bytes and writes nothing beside the source."""
    mapped = open_low_bit(target)
    before = sorted(source.path.parent.rglob("*"))
    made = convert_in_memory(source, quantize=quantize, options=SMALL)
    assert mapped.names() == made.names()
    assert all(torch.equal(mapped.get(name), made.get(name)) for name in made.names())
    assert before == sorted(source.path.parent.rglob("*"))


def test_no_fp32_piece_is_large(source: CheckpointFolder, tmp_path: Path) -> None:
    """The quantiser never sees more than one slice, and all slices together are the model once."""
    seen: list[int] = []

    def counting(weight: Tensor) -> Tensor:
        seen.append(weight.nbytes)
        return quantize(weight)

    convert(source, tmp_path / "out", quantize=counting, options=SMALL)
    expected = sum(4 * s.shape[0] * s.shape[1] for s in tensor_specs(source.config) if s.kind in ("linear", "output"))
    assert max(seen) <= SMALL.slice_bytes
    assert sum(seen) == expected


@pytest.mark.parametrize(("asked", "expected"), [(1, 1), (2, 2), (128, 8)])
def test_many_cores_do_not_hold_many_slices(asked: int, expected: int) -> None:
    """All slices at work together are no larger in fp32 than one large tensor of a 6B model."""
    assert workers(asked) == expected
    assert workers(None) <= 8
    assert 8 * SLICE_BYTES <= 16384 * 4096 * 4


def test_progress_counts_source_bytes_once(tmp_path: Path) -> None:
    """Progress grows to the total, which is the stored size; a tied embedding counts once."""
    source = inspect_folder(build_checkpoint(tmp_path / "m", "chatglm"))
    reports: list[LoadProgress] = []
    convert(source, tmp_path / "out", quantize=quantize, progress=reports.append, options=SMALL)
    sizes = {s.name: read_dense(source)[s.name].nbytes for s in tensor_specs(source.config) if s.kind != "output"}
    assert sum(sizes.values()) == reports[-1].done == reports[-1].total
    assert make_plan(source).nbytes == low_bit_bytes(source.config)
    assert all(a.done <= b.done for a, b in itertools.pairwise(reports))


@pytest.mark.parametrize("family", ["chatglm", "chatglm3"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "end", ["word_embeddings.weight", "layers.1.mlp.dense_h_to_4h.weight", "final_layernorm.weight"]
)
def test_a_value_that_is_no_number_is_named(tmp_path: Path, family: Any, value: float, end: str) -> None:
    """A broken training is found while converting, by the tensor's name, and nothing is published."""
    folder = build_checkpoint(tmp_path / "m", family, shards=1)
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    name = next(name for name in tensors if name.endswith(end))
    tensors[name].view(-1)[-3] = value
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(DamagedFile, match=name.replace(".", r"\.")):
        convert(inspect_folder(folder), tmp_path / "out", quantize=quantize, options=SMALL)
    assert generations(tmp_path / "out") == []


def test_read_only_source(source: CheckpointFolder, tmp_path: Path) -> None:
    """A source on read-only storage is converted and left as it was."""
    before = {p: p.stat().st_mtime_ns for p in source.path.iterdir()}
    for path in source.path.iterdir():
        path.chmod(0o444)
    source.path.chmod(0o555)
    try:
        convert(source, tmp_path / "out", quantize=quantize)
    finally:
        source.path.chmod(0o755)
    assert before == {p: p.stat().st_mtime_ns for p in source.path.iterdir()}


def test_second_conversion_does_nothing(source: CheckpointFolder, target: Path) -> None:
    """An up-to-date folder is left alone."""
    before = generations(target)

    def never(_: Tensor) -> Tensor:
        raise AssertionError("converted again")

    convert(source, target, quantize=never)
    assert before == generations(target)


def test_changed_source_is_converted_again(source: CheckpointFolder, target: Path) -> None:
    """The old generation goes, and so does what a killed conversion left; a note of the user's own stays."""
    before = generations(target)
    (target / "README.md").write_text("mine")
    (target / "data-deadbeef").mkdir()
    (target / "data-deadbeef" / "weights-00001.safetensors").write_bytes(b"half")
    (target / "manifest.json.123.tmp").write_text("{")
    build_checkpoint(source.path, "chatglm2", seed=9)
    convert(inspect_folder(source.path), target, quantize=quantize, options=SMALL)
    assert generations(target) == [read_manifest(target).data] != before
    assert list(target.glob("*.tmp")) == []
    assert (target / "README.md").read_text() == "mine"


def test_open_tensors_survive_a_new_generation(source: CheckpointFolder, target: Path) -> None:
    """Replacing a checkpoint never touches files that are mapped."""
    old = open_low_bit(target)
    name = next(n for n in old.names() if n.endswith("dense.weight"))
    copy = old.get(name).clone()
    build_checkpoint(source.path, "chatglm2", seed=9)
    convert(inspect_folder(source.path), target, quantize=quantize)
    old.release(name)
    assert torch.equal(copy, old.get(name))
    assert not torch.equal(copy, open_low_bit(target).get(name))


@pytest.mark.parametrize("after", [0, 3, 10])
def test_cancelling_keeps_the_old_state(source: CheckpointFolder, target: Path, after: int) -> None:
    """Stopped at any moment, the earlier checkpoint still opens and nothing is left behind."""
    before = generations(target)
    build_checkpoint(source.path, "chatglm2", seed=9)
    cancel, count = CancelToken(), 0

    def progress(_: LoadProgress) -> None:
        nonlocal count
        count += 1
        if count > after:
            cancel.cancel()

    with pytest.raises(LoadCancelled):
        convert(inspect_folder(source.path), target, quantize=quantize, progress=progress, cancel=cancel, options=SMALL)
    assert before == generations(target)
    verify_files(target, read_manifest(target), full=True)


def test_too_little_room(source: CheckpointFolder, tmp_path: Path) -> None:
    """Too little free disk or memory is said before anything is written, with the numbers."""
    for room, error, words in (
        (Room(disk=lambda _: 5_000_000), NotEnoughDisk, r"has 5\.00 MB free, but \d+\.\d MB are needed"),
        (Room(memory=lambda: 1 << 20), NotEnoughMemory, "of memory are available"),
    ):
        with pytest.raises(error, match=words):
            convert(source, tmp_path / "out", quantize=quantize, options=ConvertOptions(room=room))
    assert generations(tmp_path / "out") == []


def test_full_disk_on_the_way(source: CheckpointFolder, tmp_path: Path) -> None:
    """A disk that fills up during conversion gives the same error and leaves no data behind; with room it works."""

    class Full:
        def __init__(self, file: BinaryIO) -> None:
            self._file = file
            self.fileno, self.flush, self.close = file.fileno, file.flush, file.close
            self._room = 10_000

        def write(self, data: bytes | memoryview, /) -> int:
            self._room -= len(data)
            if self._room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            return self._file.write(data)

    options = ConvertOptions(opener=lambda path: Full(open_for_writing(path)), slice_bytes=4096)  # type: ignore[arg-type,return-value]
    with pytest.raises(NotEnoughDisk, match="has 0 B free"):
        convert(source, tmp_path / "out", quantize=quantize, options=options)
    assert generations(tmp_path / "out") == []
    assert not (tmp_path / "out" / MANIFEST).exists()
    verify_files(made := convert(source, tmp_path / "out", quantize=quantize), read_manifest(made), full=True)


def _said_by(action: Callable[[], object], error: type[Exception]) -> str:
    try:
        action()
    except error as said:
        return str(said)
    return ""


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_fails_at_any_file_is_named_and_left_clean(
    source: CheckpointFolder, tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, small files, the manifest: one sentence each, nothing half-made, and the next try works."""
    real, target, failed = os.fsync, tmp_path / "out", 0
    expected = {errno.ENOSPC: (NotEnoughDisk, "Free some space"), errno.EROFS: (CheckpointError, "--no-cache")}[error]
    for at in itertools.count():
        calls = itertools.count()

        def fsync(descriptor: int, calls: Iterator[int] = calls, at: int = at) -> None:
            if next(calls) == at:
                raise OSError(error, "the disk")
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        said = _said_by(lambda: convert(source, target, quantize=quantize, options=SMALL), expected[0])
        failed += expected[1] in said
        assert not list(target.glob("*.tmp"))
        if next(calls) <= at or (target / MANIFEST).exists():
            break
        assert generations(target) == []
    assert failed > 5
    monkeypatch.undo()
    verify_files(convert(source, target, quantize=quantize), read_manifest(target), full=True)


@pytest.mark.skipif(os.name == "nt", reason="Windows has another error for it")
def test_a_place_below_a_file_is_named(source: CheckpointFolder, tmp_path: Path) -> None:
    """As with a cache folder that is none; the sentence says what to do."""
    (tmp_path / "file").touch()
    with refused(CheckpointError, "folder.not_writable"):
        convert(source, tmp_path / "file" / "out", quantize=quantize)


def test_not_onto_the_source(source: CheckpointFolder) -> None:
    """A conversion into the source's own folder is refused."""
    with pytest.raises(ConfigError):
        convert(source, source.path, quantize=quantize)


@pytest.mark.parametrize("name", ["data-2023", "thesis.txt", "manifest.json"])
def test_a_folder_with_other_files_is_left_alone(source: CheckpointFolder, tmp_path: Path, name: str) -> None:
    """Converting into a folder of the user's own, whatever its files are called, touches nothing there."""
    precious = tmp_path / "mine" / name / "notes.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("mine")
    (tmp_path / "mine" / "letter.tmp").write_text("mine")
    with refused(ConfigError, "folder.other_files", name=min(name, "letter.tmp")):
        convert(source, tmp_path / "mine", quantize=quantize)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == sorted(["letter.tmp", name])
    assert precious.read_text() == "mine"


def test_thudm_rows_keep_every_weight() -> None:
    """Every 4-bit value at every place of a block, under scales of both signs and subnormals, is kept bit by bit."""
    generator = torch.Generator().manual_seed(1)
    scales = torch.tensor([0.013, -0.7, 6e-8, 0.0, 1000.0, -2e-5, 0.1, 3.3]).half()
    values = torch.arange(-8, 8).repeat(8, 16)
    for row in range(8):
        values[row] = values[row][torch.randperm(256, generator=generator)]
    packed = ((values[:, 0::2] << 4) | (values[:, 1::2] & 15)).to(torch.int8)
    expected = values.float() * scales.float()[:, None]
    assert torch.equal(expected, dequantize_rows(packed, scales))
    encoded = reencode_rows(packed, scales)
    assert encoded.shape == (8, 256 // 64 * 34)
    assert torch.equal(expected, dequantize(encoded, 8, 256))
