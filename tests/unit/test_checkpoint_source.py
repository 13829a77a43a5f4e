"""What a folder holds, and what is said about folders that cannot be read."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused
from safetensors.torch import save_file
from torch import Tensor

from chatglm_backend.checkpoint.convert import convert_in_memory
from chatglm_backend.checkpoint.mapping import MappedTensors
from chatglm_backend.checkpoint.plan import make_plan, read_dense
from chatglm_backend.checkpoint.resolve import resolve
from chatglm_backend.checkpoint.source import inspect_folder
from chatglm_backend.checkpoint.tensors import open_file
from chatglm_backend.checkpoint.weight_files import file_fingerprint, read_safetensors_header
from chatglm_backend.errors import (
    AdapterMismatch,
    CheckpointError,
    DamagedFile,
    LfsPointerFile,
    MissingFile,
    ModelNotFound,
    UnsafeCheckpoint,
    UnsupportedFamily,
    UnsupportedQuantization,
    WrongShape,
)
from chatglm_backend.sentences import Sentence
from tests.tiny import FAMILIES, Family, build_checkpoint, config_of
from tests.unit.checkpoint_helpers import quantize

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def change_config(folder: Path, **changes: object) -> None:
    """Replace entries of a folder's config.json; ``None`` removes one."""
    config = json.loads((folder / "config.json").read_text())
    config |= changes
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """Return a small ChatGLM-6B folder in two .bin shards."""
    return build_checkpoint(tmp_path / "chatglm-6b", "chatglm")


@pytest.fixture
def v3(tmp_path: Path) -> Path:
    """Return a small ChatGLM3-6B folder in two safetensors shards."""
    return build_checkpoint(tmp_path / "chatglm3-6b", "chatglm3", form="safetensors")


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "chatglm3"])
@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_format_is_read(tmp_path: Path, family: str, form: str, shards: int) -> None:
    """All tensors of all families are found in sharded and single files of both formats."""
    folder = inspect_folder(build_checkpoint(tmp_path / "m", family, form=form, shards=shards))  # type: ignore[arg-type]
    assert (family, form, False) == (folder.family, folder.format, folder.quantized)
    assert len(make_plan(folder).layouts) == len(read_dense(folder))


def test_folder_with_other_files_and_a_chinese_name(tmp_path: Path) -> None:
    """Git and ModelScope leave further files; a user called 张三 has them in their own folder."""
    folder = build_checkpoint(tmp_path / "张三" / "模型", "chatglm2")
    (folder / ".git").mkdir()
    (folder / "configuration.json").write_text("{}")
    (folder / "modeling_chatglm.py").write_text("raise SystemExit")
    assert inspect_folder(folder).family == "chatglm2"
    assert make_plan(inspect_folder(folder)).jobs


def test_safetensors_come_first_where_they_are_complete(v3: Path, tmp_path: Path) -> None:
    """Where they are only half there, the complete .bin set is read, and the reason says so."""
    both = build_checkpoint(tmp_path / "both", "chatglm3", form="bin")
    for file in v3.glob("model*"):
        shutil.copy(file, both)
    assert inspect_folder(both).format == "safetensors"
    next(both.glob("model-00002*")).unlink()
    folder = inspect_folder(both)
    assert folder.format == "bin"
    problem = folder.reason.fields["problem"]
    assert isinstance(problem, MissingFile)
    assert "model-00002" in str(problem.fields["path"])


def test_shards_without_their_index(v1: Path) -> None:
    """Numbered shards are read without an index, and a gap in the numbers is named."""
    next(v1.glob("*.index.json")).unlink()
    assert make_plan(inspect_folder(v1)).jobs
    next(v1.glob("*-00001-of-*")).unlink()
    with pytest.raises(MissingFile, match="00001-of-00002"):
        inspect_folder(v1)


def cut(path: Path) -> None:
    """Take the end off a file."""
    path.write_bytes(path.read_bytes()[:-1000])


def changed(**changes: object) -> Callable[[Path], None]:
    """A damage that replaces entries of a config."""
    return lambda path: change_config(path.parent, **changes)


LLAMA = '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
OUTSIDE = json.dumps({"weight_map": {"x": "../../secret.safetensors"}})


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize(
    ("pattern", "damage", "error", "words"),
    [
        ("*-00002-of-*", Path.unlink, MissingFile, "-00002-of-00002"),
        ("*-00002-of-*", cut, DamagedFile, "-00002-of-00002"),
        ("*-00001-of-*", lambda p: p.write_bytes(b""), DamagedFile, "-00001-of-00002"),
        ("*-00001-of-*", lambda p: p.write_bytes(b"<html>404</html>"), DamagedFile, "-00001-of-00002"),
        ("*-00001-of-*", lambda p: p.write_bytes(b"\x00" * 50), DamagedFile, "-00001-of-00002"),
        ("*-00001-of-*", lambda p: p.write_bytes(POINTER), LfsPointerFile, "git lfs pull"),
        ("tokenizer.model", lambda p: p.write_bytes(POINTER), LfsPointerFile, r"tokenizer\.model"),
        ("*.index.json", lambda p: p.write_text(OUTSIDE), DamagedFile, "outside"),
        ("*.index.json", lambda p: p.write_text(OUTSIDE.replace("../../secret", "x" * 300)), MissingFile, "xxx"),
        ("config.json", lambda p: p.write_text("{"), DamagedFile, r"config\.json"),
        ("config.json", Path.unlink, MissingFile, r"config\.json"),
        ("config.json", lambda p: p.write_text(LLAMA), UnsupportedFamily, "LlamaForCausalLM"),
        ("config.json", changed(rope_scaling={"factor": 4}), UnsupportedFamily, "rope_scaling"),
        ("config.json", changed(vision_config={}, architectures=["ChatGLMModel"]), UnsupportedFamily, "pictures"),
        ("config.json", changed(quantization_bit=3), UnsupportedQuantization, "3"),
        (
            "config.json",
            changed(quantization_bit=4, quantization_embeddings=True),
            UnsupportedQuantization,
            "embedding",
        ),
        ("config.json", changed(quantization_config={"quant_method": "gptq"}), UnsupportedQuantization, "gptq"),
        ("config.json", changed(bigdl_transformers_low_bit="asym_int4"), UnsupportedQuantization, "asym"),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(
    tmp_path: Path, form: Any, pattern: str, damage: Callable[[Path], object], error: type[Exception], words: str
) -> None:
    """The file and the fix are in the sentence before anything is loaded."""
    folder = build_checkpoint(tmp_path / "m", "chatglm3", form=form)
    damage(next(folder.glob(pattern)))
    with pytest.raises(error, match=words):
        inspect_folder(folder)


def test_a_config_that_may_not_be_read(tmp_path: Path) -> None:
    """Missing rights are not called damage: nobody is told to delete the file."""
    folder = build_checkpoint(tmp_path / "chatglm2-6b", "chatglm2")
    (folder / "config.json").chmod(0)
    if os.access(folder / "config.json", os.R_OK):
        pytest.skip("this user may read anything")
    with refused(CheckpointError, "file.not_permitted"):
        inspect_folder(folder)


def test_no_such_folder(tmp_path: Path) -> None:
    """A path that is not there is said to be so."""
    with pytest.raises(ModelNotFound):
        inspect_folder(tmp_path / "nothing")


def test_wrong_shapes_are_named(v1: Path) -> None:
    """The tensor, its shape and the expected one are in the error."""
    change_config(v1, inner_hidden_size=512)
    with pytest.raises(WrongShape, match=r"mlp\.dense_h_to_4h\.weight.*\(256, 128\).*\(512, 128\)"):
        make_plan(inspect_folder(v1))


def test_missing_tensor_is_named(v1: Path) -> None:
    """A config with more layers than the files hold is told which tensor lacks."""
    change_config(v1, num_layers=3)
    with pytest.raises(CheckpointError, match=r"layers\.2"):
        make_plan(inspect_folder(v1))


def test_pickles_with_code_are_refused(tmp_path: Path) -> None:
    """A pickle that would call something is never run."""

    class Call:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    folder = build_checkpoint(tmp_path / "m", "chatglm", shards=1)
    weights = next(folder.glob("*.bin"))
    torch.save({"transformer.word_embeddings.weight": Call()}, weights)
    with pytest.raises(UnsafeCheckpoint):
        make_plan(inspect_folder(folder))
    weights.write_bytes(pickle.dumps(Call(), protocol=2))
    with pytest.raises(UnsafeCheckpoint):
        make_plan(inspect_folder(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("which", ["chatglm2", "chatglm3"])
def test_family_from_the_folders_name(tmp_path: Path, which: str) -> None:
    """Without a name in the config, the folder's own decides, and the reason says so."""
    folder = build_checkpoint(tmp_path / f"my-{which}-6b", "chatglm2", _name_or_path="")
    found = inspect_folder(folder)
    assert which == found.family
    assert found.why == Sentence("family.name", name=folder.name)


def test_family_from_the_tokenizers_source(tmp_path: Path) -> None:
    """A role token in the tokenizer's source, read as text, marks ChatGLM3; without it ChatGLM2 is assumed aloud."""
    folder = build_checkpoint(tmp_path / "model", "chatglm2", _name_or_path="")
    assert inspect_folder(folder).family == "chatglm2"
    assert inspect_folder(folder).why == Sentence("family.assumed")
    assert inspect_folder(folder).assumed
    (folder / "tokenization_chatglm.py").write_text('raise SystemExit\nroles = ["<|user|>"]\n')
    assert inspect_folder(folder).family == "chatglm3"


def test_a_rope_ratio_without_a_family_is_a_question(tmp_path: Path) -> None:
    """It means different things in ChatGLM2 and ChatGLM3, so a guess could answer nonsense; 1 means nothing."""
    folder = build_checkpoint(tmp_path / "model", "chatglm2", _name_or_path="", rope_ratio=16)
    with pytest.raises(UnsupportedFamily, match="--family"):
        inspect_folder(folder)
    assert inspect_folder(folder, family="chatglm2").config.rope_divisor == 16
    build_checkpoint(folder, "chatglm2", _name_or_path="", rope_ratio=1)
    assert inspect_folder(folder).assumed


@pytest.mark.parametrize("above", ["ChatGLM2-6B-Chat", "ChatGLM-6B/ptuning/output"])
def test_folders_above_do_not_tell_the_family(tmp_path: Path, above: str) -> None:
    """A ChatGLM3 export with its tokenizer's source stays one, wherever it lies and whatever its config remembers."""
    folder = build_checkpoint(tmp_path / above / "export", "chatglm3", _name_or_path="/data/chatglm-6b-v2")
    assert inspect_folder(folder).assumed
    (folder / "tokenization_chatglm.py").write_text('roles = ["<|user|>"]\n')
    assert inspect_folder(folder).family == "chatglm3"
    (folder / "tokenization_chatglm.py").write_text("class ChatGLMTokenizer: ...\n")
    assert inspect_folder(folder).family == "chatglm2"


@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_tensors_count_more_than_the_config(tmp_path: Path, form: str) -> None:
    """A config with both generations' keys does not hide what the files hold, nor does --family."""
    both = config_of("chatglm") | config_of("chatglm2")
    folder = build_checkpoint(tmp_path / "m", "chatglm2", form=form, shards=1)  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps(both))
    assert inspect_folder(folder).family == "chatglm2"
    assert inspect_folder(folder, family="chatglm3").family == "chatglm3"
    with refused(UnsupportedFamily, "found.other_family", found="chatglm2/chatglm3", asked="chatglm"):
        inspect_folder(folder, family="chatglm")


def test_the_hub_caches_own_folder_is_its_snapshot(tmp_path: Path) -> None:
    """Given the cache's folder or the snapshot in it, the model has its hub id as name."""
    repo = tmp_path / "models--THUDM--chatglm3-6b"
    build_checkpoint(repo / "snapshots" / "0123abcd", "chatglm2", _name_or_path="")
    build_checkpoint(repo / "snapshots" / "fedc", "chatglm2", _name_or_path="", seed=3)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abcd")
    for path in (repo, repo / "snapshots" / "0123abcd"):
        found = inspect_folder(path)
        assert (found.path.name, found.name, found.family) == ("0123abcd", "THUDM/chatglm3-6b", "chatglm3")
    assert resolve(str(repo), revision="fedc", allow_download=False, env={}).path.name == "fedc"


def add_tensor(folder: Path, name: str, *shape: int) -> None:
    """Put one more tensor into a folder with a single .bin file."""
    weights = next(folder.glob("*.bin"))
    torch.save(torch.load(weights, weights_only=True) | {name: torch.zeros(shape)}, weights)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_tensor_is_dropped_in_silence(tmp_path: Path, family: Family) -> None:
    """What training leaves behind is known to be harmless; anything else is refused by its name."""
    folder = build_checkpoint(tmp_path / "m", family, shards=1)
    for name in ("transformer.rotary_pos_emb.inv_freq", "v_head.summary.weight"):
        add_tensor(folder, name, 4)
    assert make_plan(inspect_folder(folder)).jobs
    add_tensor(folder, "transformer.adapter.gate", 4)
    with pytest.raises(CheckpointError, match=r"transformer\.adapter\.gate"):
        make_plan(inspect_folder(folder))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("old", [False, True])
def test_p_tuning_that_is_not_whole_is_refused_by_name(tmp_path: Path, family: Family, old: bool) -> None:
    """A prefix of other sizes in any form of file, one that only the config asks for, or a prefix alone."""
    folder = build_checkpoint(tmp_path / "m", family, shards=1)
    weights, prefix = folder / "pytorch_model.bin", {"transformer.prefix_encoder.embedding.weight": torch.zeros(8, 16)}
    whole = torch.load(weights, weights_only=True)
    torch.save(whole | prefix, weights, _use_new_zipfile_serialization=not old)
    with pytest.raises(AdapterMismatch, match=next(iter(prefix))):
        make_plan(inspect_folder(folder))
    torch.save(prefix, weights, _use_new_zipfile_serialization=not old)
    base = f"THUDM/{family}-6b"
    what = Sentence("folder.kind_prefix", tensor=next(iter(prefix)))
    with refused(CheckpointError, "folder.adapter_away", what=what, base=base, adapter=folder):
        make_plan(inspect_folder(folder))
    torch.save(whole, weights)
    change_config(folder, pre_seq_len=128)
    with refused(CheckpointError, "folder.tensor_missing", tensor="transformer.prefix_encoder.embedding"):
        make_plan(inspect_folder(folder))


def test_a_lora_adapter_is_told_what_it_is(tmp_path: Path) -> None:
    """The sentence gives the command that works, with its base model and its folder."""
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "base_model_name_or_path": "THUDM/chatglm2-6b"}'
    )
    what = Sentence("folder.kind_adapter", kind="LORA")
    with refused(CheckpointError, "folder.adapter_away", what=what, base="THUDM/chatglm2-6b", adapter=tmp_path):
        inspect_folder(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_wrapped_output_layer_is_found(tmp_path: Path, family: Family) -> None:
    """Trainers that cast its result save it as the first of a list of layers."""
    folder = build_checkpoint(tmp_path / "m", family, shards=1)
    name = "lm_head" if family == "chatglm" else "transformer.output_layer"
    tensors = torch.load(folder / "pytorch_model.bin", weights_only=True)
    expected = tensors.pop(f"{name}.weight")
    torch.save(tensors | {f"{name}.0.weight": expected}, folder / "pytorch_model.bin")
    assert torch.equal(expected, read_dense(inspect_folder(folder))[f"{name}.weight"])


@pytest.mark.parametrize("shift", [1, 2, 4])
def test_unaligned_safetensors_are_read(tmp_path: Path, shift: int) -> None:
    """Old writers did not pad the header, so every tensor may begin at any byte."""
    folder = build_checkpoint(tmp_path / "m", "chatglm2", form="safetensors", shards=1)
    expected = {name: tensor.clone() for name, tensor in read_dense(inspect_folder(folder)).items()}
    file = folder / "model.safetensors"
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    file.write_bytes((length + shift).to_bytes(8, "little") + data[8 : 8 + length] + b" " * shift + data[8 + length :])
    found = read_dense(inspect_folder(folder))
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    assert convert_in_memory(inspect_folder(folder), quantize=quantize).names() == frozenset(expected)


def test_a_safetensors_file_in_8_bit_floats_is_no_damage(v3: Path) -> None:
    """It is called by what it is."""
    save_file({"x": torch.zeros(4).to(torch.float8_e4m3fn)}, next(v3.glob("*-00002-of-*")))
    with pytest.raises(UnsupportedQuantization, match="F8_E4M3"):
        make_plan(inspect_folder(v3))


def test_tied_output_layer_is_the_embedding(tmp_path: Path) -> None:
    """ChatGLM-6B uses the embedding for both, also where the file's lm_head differs or is missing."""
    folder = build_checkpoint(tmp_path / "m", "chatglm", shards=1)
    weights = next(folder.glob("*.bin"))
    tensors = torch.load(weights, weights_only=True)
    embedding = tensors["transformer.word_embeddings.weight"].clone()
    tensors["lm_head.weight"] = torch.zeros_like(embedding)
    torch.save(tensors, weights)
    assert torch.equal(embedding, read_dense(inspect_folder(folder))["lm_head.weight"])
    del tensors["lm_head.weight"]
    torch.save(tensors, weights)
    assert torch.equal(embedding, read_dense(inspect_folder(folder))["lm_head.weight"])


def test_fingerprint_follows_the_contents(v3: Path, tmp_path: Path) -> None:
    """A copy elsewhere has the same fingerprint; another weight, config or tokenizer a different one."""
    first = inspect_folder(v3).fingerprint
    copy = tmp_path / "copy" / "chatglm3-6b"
    shutil.copytree(v3, copy)
    assert first == inspect_folder(copy).fingerprint
    change_config(copy, seq_length=1024)
    assert first != inspect_folder(copy).fingerprint
    other = build_checkpoint(tmp_path / "other" / "chatglm3-6b", "chatglm3", form="safetensors", seed=5)
    assert first != inspect_folder(other).fingerprint
    (v3 / "tokenizer.model").write_bytes(b"another")
    assert first != inspect_folder(v3).fingerprint


def test_fingerprint_of_a_large_file_sees_every_tensor(tmp_path: Path) -> None:
    """Where not all is hashed, a tensor that is small beside the others still counts."""
    big, small = torch.zeros(40 << 20, dtype=torch.uint8), torch.zeros(100_000, dtype=torch.uint8)
    prints = set()
    for value in (0, 1):
        save_file({"a": big, "b": small + value, "c": big.clone()}, tmp_path / "model.safetensors")
        prints.add(file_fingerprint(tmp_path / "model.safetensors"))
    assert len(prints) == 2


@pytest.mark.parametrize("make", [Tensor.to_sparse, lambda tensor: tensor.to("meta")])
def test_tensors_without_values_are_one_sentence(tmp_path: Path, make: Callable[[Tensor], Tensor]) -> None:
    """Sparse ones and those of a model that was only sketched are in pickles that PyTorch reads."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(2), "dense.weight": make(torch.ones(4, 64))}, path)
    with refused(CheckpointError, "file.no_values", name="dense.weight"):
        open_file(path)


def test_tensors_of_a_pickle_that_share_bytes_are_read_as_what_they_are(tmp_path: Path) -> None:
    """Views that overlap, that repeat one number, that lie across: PyTorch stores the bytes once, with strides."""
    base = torch.arange(96.0).view(3, 32)
    made = {
        "a": base[:2],
        "b": base[1:],
        "c": base[0, :1].expand(4, 64),
        "d": base.t(),
        "e": base.as_strided((3, 8), (4, 2)),
    }
    torch.save(made, tmp_path / "pytorch_model.bin")
    found = {one.name: one.rows() for one in open_file(tmp_path / "pytorch_model.bin")}
    assert found.keys() == made.keys()
    assert all(torch.equal(found[name], made[name]) for name in made)


@pytest.mark.parametrize(
    "offsets",
    [([0, 16], [8, 24]), ([0, 16], [24, 40]), ([8, 24], [24, 40]), ([0, 16], [0, 16]), ([0, 16], [16, math.inf])],
)
def test_tensors_that_share_bytes_or_leave_some_out_are_damage(tmp_path: Path, offsets: tuple[list[int], ...]) -> None:
    """One tensor's bytes lie behind the other's; a header that says otherwise has been changed."""
    header = {
        name: {"dtype": "F32", "shape": [4], "data_offsets": place} for name, place in zip("ab", offsets, strict=True)
    }
    raw = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(40))
    with refused(DamagedFile, "file.header_damaged"):
        read_safetensors_header(path)


def test_a_file_that_was_cut_since_its_header_was_read_is_not_mapped(tmp_path: Path) -> None:
    """Reading behind its end would end the process."""
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(4096)}, path)
    header = read_safetensors_header(path)
    os.truncate(path, 8192)
    with refused(DamagedFile, "file.size", found=8192, expected=16456):
        MappedTensors({path: header})


@pytest.mark.parametrize("damaged", [b"\x80\x02.", b"\x80\x02}(", b"\x80\x02h\x05.", b"\x80\x02K\x01K\x02s."])
def test_a_damaged_pickle_is_one_sentence_however_it_fails(tmp_path: Path, damaged: bytes) -> None:
    """PyTorch's reader has no error of its own for it: its stack is empty, its memo lacks a number."""
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        members = [(one, archive.read(one)) for one in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, damaged if name.endswith("data.pkl") else content)
    with pytest.raises((DamagedFile, UnsafeCheckpoint)):
        open_file(path)
