"""Fine-tunes against the logits of the authors' own code: alone, in batches of several, on every kernel."""

from __future__ import annotations

import json
import re
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from chatglm_backend.adapters.folder import inspect_adapter
from chatglm_backend.adapters.load import AdaptableWeights, load_adapter
from chatglm_backend.adapters.merge import open_merge
from chatglm_backend.checkpoint.convert import ConvertOptions, convert
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.checkpoint.mapping import HeldTensors
from chatglm_backend.checkpoint.source import inspect_folder
from chatglm_backend.checkpoint.tensors import open_file
from chatglm_backend.engine.verify import verify_logits
from chatglm_backend.errors import AdapterError, DamagedLowBit
from chatglm_backend.int4.bigdl import quantize
from chatglm_backend.int4.kernel import KernelName
from chatglm_backend.int4.select import KernelChoice, select_kernel
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.adapter import Adapter
from chatglm_backend.models.base import ChatModel, build_model
from chatglm_backend.models.layout import tensor_specs
from chatglm_backend.models.rows import Feed
from chatglm_backend.models.weights import DenseWeights
from chatglm_backend.service.verifying import verify_folder
from chatglm_backend.settings import Settings
from tests.golden_folders import GOLDEN, dense_tensors, golden_cases, golden_config, packed_tensors
from tests.unit.checkpoint_helpers import flip_byte

BASES = ("chatglm-6b-ptuning", "chatglm2-6b-ptuning", "chatglm3-6b-ptuning", "chatglm-6b-lora", "chatglm3-6b-lora")
ADAPTERS = sorted(file.parent for base in BASES for file in (GOLDEN / base).glob("*/expected.json"))
PREFIXES = [folder for folder in ADAPTERS if "ptuning" in folder.parent.name]
LORAS = [folder for folder in ADAPTERS if "lora" in folder.parent.name]


def loaded(folder: Path, weights: AdaptableWeights, dtype: torch.dtype, kv_dtype: torch.dtype | None = None) -> Adapter:
    """The fine-tune in a folder, in one number format, or its prefix in another."""
    config = golden_config(folder.parent.name)
    return load_adapter(inspect_adapter(folder), config, base=weights, dtype=dtype, kv_dtype=kv_dtype or dtype)


@lru_cache(maxsize=3)
def chosen_kernel(name: KernelName) -> KernelChoice:
    """Return what users get by this name, compiled once for all tests."""
    return select_kernel(name, threads=2)


def int4_model(base: str, kernel: KernelName, half: torch.dtype = torch.float16) -> tuple[ChatModel, AdaptableWeights]:
    """The base from packed weights, on a kernel with its own operations; an inexact one's K/V are in ``half``."""
    choice = chosen_kernel(kernel)
    weights = Int4Weights(HeldTensors(packed_tensors(base)), choice.kernel)
    kv_dtype = torch.float32 if kernel == "exact" else half
    return build_model(golden_config(base), weights, kv_dtype=kv_dtype, ops=choice.ops), weights


@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_fp32_logits_and_greedy_ids_equal_the_authors(folder: Path) -> None:
    """With the fine-tune 1e-4 and every id; without it another model."""
    weights = DenseWeights(dense_tensors(folder.parent.name))
    model = build_model(golden_config(folder.parent.name), weights, kv_dtype=torch.float32)
    report = verify_logits(folder, model, adapter=loaded(folder, weights, torch.float32))
    assert report.ok, report.to_json()
    assert verify_logits(folder.parent, model).ok
    assert not verify_logits(folder, model).ok


@pytest.mark.parametrize("kernel", ["exact", "auto", "bigdl"])
@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_int4_logits_are_as_near_as_the_base_is(folder: Path, kernel: KernelName) -> None:
    """The side path is added unrounded beside the INT4 product; replayed steps are among those compared."""
    model, weights = int4_model(folder.parent.name, kernel)
    exact = kernel == "exact"
    adapter = loaded(folder, weights, torch.float32 if exact else torch.float16)
    report = verify_logits(folder, model, precision="int4", tolerance=1e-4 if exact else None, adapter=adapter)
    assert report.ok, report.to_json()


def greedy(model: ChatModel, prompts: list[list[int]], adapters: list[Adapter | None], steps: int) -> list[list[int]]:
    """Greedy ids of several sequences, each of its own fine-tune, decoded together."""
    caches = [model.new_cache(len(ids) + steps, adapter) for ids, adapter in zip(prompts, adapters, strict=True)]
    answers: list[list[int]] = []
    for ids, cache in zip(prompts, caches, strict=True):
        prefill = model.prefill(ids, cache, max_rows=5)
        while not prefill.advance():
            pass
        answers.append([int(prefill.logits.argmax())])
    for _ in range(steps - 1):
        logits: Tensor = model.decode([Feed((a[-1],), c) for a, c in zip(answers, caches, strict=True)])
        for answer, row in zip(answers, logits, strict=True):
            answer.append(int(row.argmax()))
    return answers


IN_BITS = [*((base, 16) for base in BASES), ("chatglm-6b-ptuning", 8), ("chatglm2-6b-ptuning", 8)]


@pytest.mark.parametrize(("base", "bits"), IN_BITS)
def test_a_batch_of_several_fine_tunes_is_each_alone(base: str, bits: int) -> None:
    """Base, adapter, base, other adapter: every sequence gets the ids it gets alone, on the fastest kernel."""
    kv_dtype = torch.int8 if bits == 8 else torch.float16
    model, weights = int4_model(base, "auto", kv_dtype)
    folders = [folder for folder in ADAPTERS if folder.parent.name == base]
    adapters = [loaded(folder, weights, torch.float16, kv_dtype) for folder in folders]
    assert verify_logits(folders[0], model, precision="int4", adapter=adapters[0]).ok
    cases = golden_cases(base)
    order: list[Adapter | None] = [None, adapters[0], adapters[0], None, adapters[-1]]
    prompts = [case.input_ids for case, _ in zip(cases, order, strict=True)]
    together = greedy(model, prompts, order, 16)
    alone = [greedy(model, [ids], [adapter], 16)[0] for ids, adapter in zip(prompts, order, strict=True)]
    assert together == alone
    plain = greedy(model, prompts, [None] * len(order), 16)
    same = [a == b for a, b in zip(together, plain, strict=True)]
    assert same[0]
    assert same[3]
    assert not all(same)


@pytest.mark.parametrize("base", ["chatglm2-6b-ptuning", "chatglm3-6b-lora"])
def test_a_cache_continued_from_a_copy_is_the_same(base: str) -> None:
    """A prefix of an earlier sequence of the same fine-tune is reused; another one's is refused."""
    model, weights = int4_model(base, "auto")
    adapter, other = [loaded(folder, weights, torch.float16) for folder in ADAPTERS if folder.parent.name == base]
    ids = golden_cases(base)[0].input_ids
    first = model.new_cache(len(ids) + 8, adapter)
    prefill = model.prefill(ids, first)
    while not prefill.advance():
        pass
    copy = model.new_cache(len(ids) + 8, adapter)
    copy.copy_prefix_from(first, len(ids) - 1)
    rest = model.prefill(ids[-1:], copy)
    while not rest.advance():
        pass
    feed = int(prefill.logits.argmax())
    assert feed == int(rest.logits.argmax())
    torch.testing.assert_close(
        model.decode([Feed((feed,), first)]), model.decode([Feed((feed,), copy)]), rtol=0.02, atol=0.02
    )
    for stranger in (None, other):
        with pytest.raises(ValueError, match="fine-tunes"):
            model.new_cache(64, stranger).copy_prefix_from(first, 3)


def whole_model(prefix: Path, target: Path) -> Path:
    """Base and prefix in one folder, as older trainers save them, with what is expected of both together."""
    shutil.copytree(prefix.parent, target, ignore=shutil.ignore_patterns("checkpoint-*"))
    for file in (*prefix.glob("expected*"), prefix / "config.json"):
        shutil.copy(file, target)
    tensors = {one.name: one.rows() for one in open_file(inspect_adapter(prefix).file)}
    index = next(target.glob("*.index.json"))
    file = target / index.name.removesuffix(".index.json").replace(".", "-prefix.")
    torch.save(tensors, file) if file.suffix == ".bin" else save_file(tensors, file)
    found = json.loads(index.read_text())
    found["weight_map"] |= dict.fromkeys(tensors, file.name)
    index.write_text(json.dumps(found))
    return target


@pytest.mark.parametrize("prefix", PREFIXES, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_whole_model_with_its_prefix_inside_is_the_base_with_the_prefix(prefix: Path, tmp_path: Path) -> None:
    """In fp32, converted in memory, and from a low-bit folder, which holds the finished rows and hashes them."""
    whole = whole_model(prefix, tmp_path / prefix.parent.name)
    assert verify_folder(whole, "fp32", Settings())[0].ok
    exact = Settings(kernel="exact")
    assert verify_folder(whole, "int4", exact, tolerance=1e-4)[0].ok
    target = convert(inspect_folder(whole), tmp_path / "low-bit")
    for file in whole.glob("expected*"):
        shutil.copy(file, target)
    fast, again = (verify_folder(folder, "int4", Settings(threads=2))[0] for folder in (whole, target))
    assert fast.ok
    assert fast == again
    rows = next(target.glob("data-*/prefix.safetensors"))
    flip_byte(rows)
    with pytest.raises(DamagedLowBit, match=re.escape(rows.name)):
        open_low_bit(target)


@pytest.mark.parametrize("folder", LORAS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_a_merged_lora_is_the_base_with_the_lora(folder: Path, tmp_path: Path) -> None:
    """In fp32 as the authors' own code has it; the converter, slice by slice, makes exactly that in INT4."""
    source = inspect_folder(folder.parent)
    merge = open_merge(inspect_adapter(folder), source)
    merged = {name: tensor.float().clone() for name, tensor in dense_tensors(folder.parent.name).items()}
    for name, tensor in merged.items():
        merge.apply(name, 0, tensor)
    model = build_model(source.config, DenseWeights(merged), kv_dtype=torch.float32)
    report = verify_logits(folder, model)
    assert report.ok, report.to_json()
    plain, target = (
        open_low_bit(convert(source, tmp_path / name, merge=one, options=ConvertOptions(2, 8 << 10)))
        for name, one in (("plain", None), ("merged", merge))
    )
    for spec in tensor_specs(source.config):
        expected = quantize(merged[spec.name]) if spec.kind in ("linear", "output") else merged[spec.name]
        torch.testing.assert_close(target.get(spec.name), expected.to(target.get(spec.name).dtype), rtol=0, atol=0)
    assert target.manifest.merged == {"name": folder.name, "identity": merge.identity}
    assert (plain.manifest.merged, target.name) == ({}, f"{source.name}+{folder.name}")
    assert plain.manifest.source_fingerprint != target.manifest.source_fingerprint


def test_whole_layers_and_biases_are_merged_in_their_places(tmp_path: Path) -> None:
    """An embedding, an output layer and a bias of the fine-tune replace the base's; nothing else changes."""
    source = inspect_folder(LORAS[-1].parent)
    saved = shutil.copytree(LORAS[-1], tmp_path / "saved")
    embedding, bias, output = specs = [
        next(spec for spec in tensor_specs(source.config) if spec.kind == "embedding"),
        next(spec for spec in tensor_specs(source.config) if spec.name.endswith("query_key_value.bias")),
        next(spec for spec in tensor_specs(source.config) if spec.kind == "output"),
    ]
    config = json.loads((saved / "adapter_config.json").read_text())
    config |= {"bias": "all", "modules_to_save": ["word_embeddings", "output_layer"]}
    (saved / "adapter_config.json").write_text(json.dumps(config))
    news = {spec.name: torch.randn(spec.shape, generator=torch.Generator().manual_seed(1)) for spec in specs}
    # A layer that is replaced has no product beside it.
    stored = {one.name: one.rows() for one in open_file(inspect_adapter(LORAS[-1]).file)}
    stored = {name: tensor for name, tensor in stored.items() if "output_layer" not in name}
    save_file(
        stored | {f"base_model.model.{name}": tensor for name, tensor in news.items()}, inspect_adapter(saved).file
    )
    plain, merged = (
        open_low_bit(convert(source, tmp_path / name, merge=merge))
        for name, merge in (("plain", None), ("merged", open_merge(inspect_adapter(saved), source)))
    )
    torch.testing.assert_close(merged.get(embedding.name), news[embedding.name].half(), rtol=0, atol=0)
    torch.testing.assert_close(merged.get(output.name), quantize(news[output.name]), rtol=0, atol=0)
    torch.testing.assert_close(merged.get(bias.name), news[bias.name], rtol=0, atol=0)
    kept = "transformer.encoder.final_layernorm.weight"
    torch.testing.assert_close(merged.get(kept), plain.get(kept), rtol=0, atol=0)


def test_what_cannot_be_merged_is_refused_by_name() -> None:
    """Prefixes, and a base that has 4 bits already: both work beside their base."""
    for folder, source, named in (
        (PREFIXES[-1], inspect_folder(LORAS[-1].parent), "prefix_encoder"),
        (LORAS[0], inspect_folder(GOLDEN / "chatglm-6b-int4"), "quantization_bit"),
    ):
        with pytest.raises(AdapterError, match=named):
            open_merge(inspect_adapter(folder), source)


@pytest.mark.parametrize("prefix", [PREFIXES[0], PREFIXES[-1]], ids=lambda p: p.parent.name)
def test_the_documented_way_to_take_a_prefix_out(prefix: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code in both languages, run on a whole model of either format, leaves the prefix as it was."""
    text = (GOLDEN.parents[1] / "docs" / "finetunes.md").read_text(encoding="utf-8")
    (code,) = set(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    whole_model(prefix, tmp_path / "output" / "checkpoint-3000")
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # noqa: S102
    found, expected = (
        {one.name: one.rows() for one in open_file(inspect_adapter(folder).file)}
        for folder in (tmp_path / "my-prefix", prefix)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
