"""Fine-tunes from folders as people have them: what is read, and what is refused by which name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from chatglm_backend.adapters.folder import AdapterFolder, inspect_adapter
from chatglm_backend.adapters.load import load_adapter as load_on
from chatglm_backend.adapters.lora import read_lora_config
from chatglm_backend.errors import (
    AdapterDamaged,
    AdapterEmpty,
    AdapterMismatch,
    AdapterNotFound,
    AdapterUnsupported,
    DamagedFile,
)
from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.weights import DenseWeights
from chatglm_backend.service.adapters import named_source
from tests.golden_folders import GOLDEN, golden_config

LORA = GOLDEN / "chatglm3-6b-lora" / "lora-qkv"
PREFIX = GOLDEN / "chatglm3-6b-ptuning" / "checkpoint-3000"
PROJECTION = GOLDEN / "chatglm-6b-ptuning" / "checkpoint-3000-projection"
BASE = DenseWeights({})
PLAIN = {"peft_type": "LORA", "r": 8, "lora_alpha": 32}


def load_adapter(folder: AdapterFolder, config: ModelConfig) -> Adapter:
    """For a base whose own numbers do not matter."""
    return load_on(folder, config, base=BASE)


def copied(source: Path, target: Path, **fields: object) -> Path:
    """A copy of an adapter's folder with other fields in its config."""
    shutil.copytree(source, target)
    name = "adapter_config.json" if (target / "adapter_config.json").is_file() else "config.json"
    config = json.loads((target / name).read_text())
    (target / name).write_text(json.dumps(config | fields))
    return target


def rewritten(folder: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """The folder with other tensors in its weight file."""
    save_file(dict(tensors), next(folder.glob("*model.safetensors")))
    return folder


@pytest.mark.parametrize(
    ("fields", "rank", "scale"),
    [
        ({}, 8, 4.0),
        ({"use_rslora": True}, 16, 8.0),
        ({"alpha_pattern": {"query_key_value": 2}}, 8, 0.25),
        ({"alpha_pattern": {r"layers\.0\.self_attention\.query_key_value": 2}}, 8, 4.0),
        ({"alpha_pattern": {r"layers\.[0-3]\.self_attention\.query_key_value": 16}}, 8, 2.0),
    ],
)
def test_the_scale_of_a_side_path(fields: dict[str, object], rank: int, scale: float) -> None:
    """Alpha by the rank or its root; a pattern is a module's whole name, or its end from a dot on."""
    config = read_lora_config(PLAIN | fields, "here")
    assert config.scale("transformer.encoder.layers.1.self_attention.query_key_value", rank) == scale


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "PREFIX_TUNING"),
        ("use_dora", True),
        ("lora_bias", True),
        ("trainable_token_indices", [3]),
        ("init_lora_weights", "pissa"),
        ("something_of_next_year", {"on": True}),
        ("lora_alpha", float("nan")),
        ("lora_alpha", "32"),
        ("bias", "some"),
        ("alpha_pattern", {"(a+)+$": 3}),
    ],
)
def test_what_would_change_answers_is_refused_by_its_name(field: str, value: object) -> None:
    """Also what a later version of the library may add; null, false and empty say nothing."""
    with pytest.raises(AdapterUnsupported) as caught:
        read_lora_config(PLAIN | {field: value}, "here")
    assert str(caught.value.fields["field"]).startswith(field)
    read_lora_config(PLAIN | {"use_dora": False, "megatron_config": None, "something_of_next_year": {}}, "here")


def test_a_raw_state_of_training_is_read_as_the_saved_one(tmp_path: Path) -> None:
    """``.default`` between module and weight; a transposed pair with ``fan_in_fan_out``."""
    config = golden_config("chatglm3-6b-lora")
    expected = load_adapter(inspect_adapter(LORA), config)
    folder = copied(LORA, tmp_path / "raw", fan_in_fan_out=True)
    tensors = load_file(folder / "adapter_model.safetensors")
    raw = {key.replace(".weight", ".default.weight"): tensor.T.contiguous() for key, tensor in tensors.items()}
    found = load_adapter(inspect_adapter(rewritten(folder, raw)), config)
    assert found.deltas.keys() == expected.deltas.keys()
    assert all(torch.equal(found.deltas[k].low_rank.down, expected.deltas[k].low_rank.down) for k in found.deltas)
    assert found.identity != expected.identity


@pytest.mark.parametrize(
    ("folder", "base", "other", "names"),
    [
        (LORA, "chatglm-6b-lora", {}, "self_attention"),
        (LORA, "chatglm3-6b-lora", {"hidden_size": 256}, "lora_A"),
        (LORA, "chatglm3-6b-lora", {"num_kv_heads": 1}, "lora_B"),
        (LORA, "chatglm3-6b-lora", {"num_layers": 1}, "layers.1"),
        (PREFIX, "chatglm-6b-ptuning", {}, "embedding.weight"),
        (PREFIX, "chatglm3-6b-ptuning", {"head_dim": 64}, "embedding.weight"),
        (PREFIX, "chatglm3-6b-ptuning", {"num_layers": 3}, "embedding.weight"),
        (PROJECTION, "chatglm3-6b-ptuning", {}, "trans"),
        (PROJECTION, "chatglm-6b-ptuning", {"num_layers": 1}, "trans.2.weight"),
    ],
)
def test_a_fine_tune_of_another_base_is_one_sentence(folder: Path, base: str, other: Any, names: str) -> None:
    """Of another family, width or number of layers: it names the first tensor that does not fit."""
    with pytest.raises(AdapterMismatch, match=names):
        load_adapter(inspect_adapter(folder), replace(golden_config(base), **other))


@pytest.mark.parametrize(
    ("change", "error", "names"),
    [
        ({"lora_A": None}, AdapterMismatch, "lora_A"),
        ({"lora_B": None}, AdapterMismatch, "lora_B"),
        ({"lora_B": torch.ones(3)}, AdapterMismatch, "lora_B"),
        ({"lora_A": torch.ones(8, 128, dtype=torch.int64)}, AdapterDamaged, "lora_A"),
        ("cut", DamagedFile, "adapter_model"),
        ("pickle", DamagedFile, "adapter_model"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: Any, error: type[Exception], names: str) -> None:
    """A factor that is missing, of another shape or no fractions, and files that are not whole."""
    folder = copied(LORA, tmp_path / "damaged")
    file = folder / "adapter_model.safetensors"
    if isinstance(change, str):
        data = file.read_bytes()
        file.unlink()
        (file if change == "cut" else file.with_suffix(".bin")).write_bytes(data[:-100])
    else:
        tensors = load_file(file)
        for part, other in change.items():
            name = next(name for name in tensors if part in name)
            tensors.pop(name)
            tensors |= {} if other is None else {name: other}
        rewritten(folder, tensors)
    with pytest.raises(error, match=names):
        load_adapter(inspect_adapter(folder), golden_config("chatglm3-6b-lora"))


def test_an_empty_adapter_is_said_to_be_empty(tmp_path: Path) -> None:
    """A known fault of saving leaves a weight file without weights."""
    folder = rewritten(copied(LORA, tmp_path / "empty"), {})
    with pytest.raises(AdapterEmpty):
        load_adapter(inspect_adapter(folder), golden_config("chatglm3-6b-lora"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("source", [LORA, PREFIX])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, source: Path, bad: float) -> None:
    """One of them would spoil every answer."""
    folder = copied(source, tmp_path / "bad")
    tensors = load_file(next(folder.glob("*model.safetensors")))
    name = sorted(tensors)[0]
    tensors[name][0, 0] = bad
    with pytest.raises(AdapterDamaged, match=name.split(".")[-2]):
        load_adapter(inspect_adapter(rewritten(folder, tensors)), golden_config(source.parent.name))


def test_a_tensor_that_is_not_used_is_refused_by_its_name(tmp_path: Path) -> None:
    """Nothing of a fine-tune is dropped in silence."""
    folder = copied(LORA, tmp_path / "more")
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["base_model.model.transformer.encoder.layers.0.lora_magnitude_vector"] = torch.ones(3)
    with pytest.raises(AdapterUnsupported, match="lora_magnitude_vector"):
        load_adapter(inspect_adapter(rewritten(folder, tensors)), golden_config("chatglm3-6b-lora"))


def test_trainers_other_files_are_never_opened(tmp_path: Path) -> None:
    """They are pickles of anything; beside a prefix they may be there and need not be whole."""
    folder = copied(PREFIX, tmp_path / "checkpoint-9")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (folder / name).write_bytes(b"not a pickle at all")
    prefix = load_adapter(inspect_adapter(folder), golden_config("chatglm3-6b-ptuning")).prefix
    assert prefix is not None
    assert prefix.rows == 16


def test_a_prefix_with_stripped_names_is_the_same(tmp_path: Path) -> None:
    """Only ``embedding.weight``, without the encoder's name in front, and no config beside it."""
    config = golden_config("chatglm3-6b-ptuning")
    folder = copied(PREFIX, tmp_path / "stripped")
    (folder / "config.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    rewritten(folder, {key.removeprefix("transformer.prefix_encoder."): value for key, value in tensors.items()})
    expected, found = (load_adapter(inspect_adapter(one), config).prefix for one in (PREFIX, folder))
    assert expected is not None
    assert found is not None
    assert all(
        torch.equal(a, b) for a, b in zip(expected.keys + expected.values, found.keys + found.values, strict=True)
    )


def test_a_folder_without_a_fine_tune(tmp_path: Path) -> None:
    """It is said what would be one."""
    with pytest.raises(AdapterNotFound, match=r"adapter_config\.json"):
        inspect_adapter(tmp_path)


@pytest.mark.parametrize(
    ("source", "name", "place"),
    [
        ("owner/my-lora", "my-lora", "owner/my-lora"),
        ("owner/my-lora@v1.0", "my-lora", "owner/my-lora@v1.0"),
        ("polite=owner/my-lora", "polite", "owner/my-lora"),
        (str(LORA), "lora-qkv", str(LORA)),
        ("a b=c", "a-b-c", "a b=c"),
    ],
)
def test_a_source_has_a_name_and_a_place(source: str, name: str, place: str) -> None:
    """The name is given, or that of the folder or the hub's model."""
    assert named_source(source) == (name, place)
