"""A low-bit folder: damage is found before it is used, and it is made again where its source is there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from refusals import refused

from chatglm_backend.checkpoint import manifest as manifest_module
from chatglm_backend.checkpoint.convert import convert
from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint, open_low_bit
from chatglm_backend.checkpoint.manifest import MANIFEST, read_manifest, verify_files
from chatglm_backend.checkpoint.prepare import Preparation, prepare
from chatglm_backend.checkpoint.source import CheckpointFolder, inspect_folder
from chatglm_backend.checkpoint.weight_files import read_safetensors_header
from chatglm_backend.errors import (
    CheckpointError,
    DamagedLowBit,
)
from chatglm_backend.sentences import Sentence
from tests.tiny import build_checkpoint
from tests.unit.checkpoint_helpers import SMALL, flip_byte, largest_weights, quantize


@pytest.fixture
def source(tmp_path: Path) -> CheckpointFolder:
    """Return a small ChatGLM2-6B folder."""
    return inspect_folder(build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2"))


@pytest.fixture
def target(source: CheckpointFolder, tmp_path: Path) -> Path:
    """Return its conversion."""
    return convert(source, tmp_path / "low-bit", quantize=quantize, options=SMALL)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "foreign", "manifest"])
def test_damage_is_named_and_never_loaded(target: Path, damage: str, tmp_path: Path) -> None:
    """A file that changed in any way is named when the folder is opened."""
    file = largest_weights(target)
    if damage == "flip":
        flip_byte(file)
    elif damage == "truncate":
        file.write_bytes(file.read_bytes()[:-10])
    elif damage == "remove":
        file.unlink()
    elif damage == "foreign":
        other = inspect_folder(build_checkpoint(tmp_path / "x" / "chatglm2-6b", "chatglm2", seed=4))
        foreign = convert(other, tmp_path / "foreign", quantize=quantize, options=SMALL)
        shutil.copy(foreign / read_manifest(foreign).data / file.name, file)
    else:
        file = target / MANIFEST
        file.write_text(file.read_text().replace('"chatglm2"', '"chatglm3"'))
    with pytest.raises(DamagedLowBit, match=file.name):
        open_low_bit(target)


@pytest.mark.parametrize("what", ["word_embeddings.weight", "dense.weight", "layernorm.weight", "tokenizer.model"])
def test_damage_with_an_old_date_is_found_before_it_is_used(
    source: CheckpointFolder, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and date are as before, as on a failing disk: what is used is compared, and made again from its source."""
    monkeypatch.setattr(manifest_module, "_SMALL", 0 if "weight" in what else 4 << 20)  # these files are small, too
    first = prepare(str(source.path), Preparation(quantize=quantize))
    assert isinstance(first, LowBitCheckpoint)
    data, place = first.folder / first.manifest.data, 10
    damaged = data / what
    for file in data.glob("*.safetensors"):
        for name, entry in read_safetensors_header(file).items():
            if name.endswith(what):
                damaged, place = file, (entry.start + entry.end) // 2
    flip_byte(damaged, place, silently=True)
    notes: list[Sentence] = []
    if what == "dense.weight":  # read by nobody until it is used
        opened = open_low_bit(first.folder)
        with pytest.raises(DamagedLowBit, match=damaged.name):
            opened.check(opened.names())
    again = prepare(str(source.path), Preparation(quantize=quantize, note=notes.append))
    again.check(again.names())
    assert isinstance(notes[-1].fields["problem"], DamagedLowBit)
    assert not damaged.exists()


def test_wrong_sums_of_right_files_are_made_again(target: Path) -> None:
    """The sums lie on the same disk: where they say otherwise, the files' own hashes decide."""
    open_low_bit(target)
    sums = target / "sums.json"
    right = sums.read_text()
    for wrong in (right.replace("a", "b"), right[:50], "{}", right.replace("dense", "dance")):
        sums.write_text(wrong)
        opened = open_low_bit(target)
        opened.check(opened.names())
        assert sums.read_text() == right


def test_damaged_cache_is_rebuilt_from_its_source(source: CheckpointFolder) -> None:
    """The cache's damaged file is named, and made again from the source."""
    notes: list[Sentence] = []
    first = prepare(str(source.path), Preparation(quantize=quantize))
    assert isinstance(first, LowBitCheckpoint)
    damaged = largest_weights(first.folder)
    flip_byte(damaged)
    again = prepare(str(source.path), Preparation(quantize=quantize, note=notes.append))
    assert isinstance(again, LowBitCheckpoint)
    verify_files(again.folder, again.manifest, full=True)
    problem = notes[-1].fields["problem"]
    assert isinstance(problem, DamagedLowBit)
    assert problem.fields["path"] == damaged
    assert not damaged.exists()


def test_damaged_folder_is_rebuilt_while_its_source_is_there(source: CheckpointFolder, target: Path) -> None:
    """A low-bit folder given by path is rebuilt too; without its source the error says what to do."""
    flip_byte(largest_weights(target))
    assert isinstance(prepare(str(target), Preparation(quantize=quantize)), LowBitCheckpoint)
    flip_byte(largest_weights(target))
    shutil.rmtree(source.path)
    with pytest.raises(DamagedLowBit, match="Convert the original model again"):
        prepare(str(target), Preparation(quantize=quantize))


def test_a_changed_source_leaves_one_conversion(source: CheckpointFolder) -> None:
    """What it was before goes when the new one stands; another folder's of the same name and a running one's stay."""
    other = inspect_folder(build_checkpoint(source.path.parent / "elsewhere" / "chatglm2-6b", "chatglm2", seed=7))
    kept, first = (prepare(str(one.path), Preparation(quantize=quantize)) for one in (other, source))
    assert isinstance(first, LowBitCheckpoint)
    assert isinstance(kept, LowBitCheckpoint)
    killed = first.folder.with_name(first.folder.name[:-8] + "0badcafe")
    (killed / "data-00000000").mkdir(parents=True)
    build_checkpoint(source.path, "chatglm2", seed=8)
    second = prepare(str(source.path), Preparation(quantize=quantize))
    assert isinstance(second, LowBitCheckpoint)
    assert set(first.folder.parent.iterdir()) == {kept.folder, second.folder}


def test_newer_format_is_refused(target: Path) -> None:
    """A folder from a later version says so."""
    manifest = json.loads((target / MANIFEST).read_text())
    (target / MANIFEST).write_text(json.dumps(manifest | {"format_version": 2}))
    with refused(CheckpointError, "folder.format_version", found="2", expected=1):
        open_low_bit(target)


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a user's folders apart by itself")
def test_another_users_folder_that_others_may_write_is_not_used(
    source: CheckpointFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is converted in memory, and a sentence says why; without its source it is refused.

    One's own is closed, with all that lies in it, and used.
    """
    notes: list[object] = []
    env = {"CHATGLM_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path)}
    repo = tmp_path / "hub" / "models--THUDM--chatglm2-6b" / "snapshots" / "one"
    repo.parent.mkdir(parents=True)
    source.path.rename(repo)
    how = Preparation(quantize=quantize, note=notes.append, env=env)
    made = prepare("THUDM/chatglm2-6b", how)
    assert isinstance(made, LowBitCheckpoint)
    inside = [made.folder, *made.folder.rglob("*")]
    for path in inside:
        path.chmod(path.stat().st_mode | 0o022)
    assert isinstance(prepare("THUDM/chatglm2-6b", how), LowBitCheckpoint)
    assert not any(path.stat().st_mode & 0o022 for path in inside)
    assert notes == []
    largest_weights(made.folder).chmod(0o664)
    monkeypatch.setattr(os, "getuid", lambda: made.folder.stat().st_uid + 1)
    assert not isinstance(prepare("THUDM/chatglm2-6b", how), LowBitCheckpoint)
    assert [one.code for one in notes if isinstance(one, Sentence)] == ["note.others_write"]
    shutil.rmtree(repo)
    for model in ("THUDM/chatglm2-6b", str(made.folder)):
        with refused(CheckpointError, "folder.others_write"):
            prepare(model, how)
    largest_weights(made.folder).chmod(0o644)
    assert isinstance(prepare("THUDM/chatglm2-6b", how), LowBitCheckpoint)
