"""GLM-4 and GLM-Edge from a whole folder to an answer, and against transformers' own classes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from chatglm_backend.adapters.folder import inspect_adapter
from chatglm_backend.adapters.load import load_adapter
from chatglm_backend.adapters.merge import open_merge
from chatglm_backend.checkpoint.convert import ConvertOptions, convert
from chatglm_backend.checkpoint.lowbit import open_low_bit
from chatglm_backend.checkpoint.plan import read_dense
from chatglm_backend.checkpoint.prepare import matching_tokenizer
from chatglm_backend.checkpoint.source import inspect_folder
from chatglm_backend.core import GenerationParams, GenerationRequest, Message, Offer, TokenEvent
from chatglm_backend.engine.engine import Engine
from chatglm_backend.errors import CheckpointError, UnsupportedFamily, WrongShape
from chatglm_backend.int4.bigdl import quantize
from chatglm_backend.int4.blocks import dequantize
from chatglm_backend.int4.weights import Int4Weights
from chatglm_backend.models.base import build_model
from chatglm_backend.models.weights import DenseWeights
from chatglm_backend.tokenizers.base import load_tokenizer
from chatglm_backend.tokenizers.tools import calls_tools, offer_text
from tests.golden_folders import GOLDEN, dense_tensors, golden_cases, golden_config, packed_tensors, rel_error
from tests.small_models import read_prompt
from tests.tiny_glm import TOOLS_BESIDE, TOOLS_TEMPLATE, write_json, write_ranks

pytestmark = pytest.mark.model

SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 256, "pad_token_id": 0, "eos_token_id": [1, 2],
}  # fmt: skip


def whole_folder(target: Path, name: str) -> Path:
    """A golden folder with a tokenizer: transformers' file and a template, or the authors' file."""
    shutil.copytree(GOLDEN / name, target, ignore=shutil.ignore_patterns("expected*"))
    return write_ranks(target) if name == "glm-4-9b-chat" else write_json(target, template=TOOLS_TEMPLATE)


@pytest.mark.parametrize("name", ["glm-4-9b-chat", "glm-4-9b-0414", "glm-edge-1.5b-chat"])
def test_a_folder_answers_after_its_source_is_gone(tmp_path: Path, name: str) -> None:
    """Converted in small slices to the bytes of each stacked tensor; tokenizer and template are kept beside them."""
    folder = whole_folder(tmp_path / name, name)
    options = ConvertOptions(slice_bytes=8192)
    checkpoint = open_low_bit(convert(inspect_folder(folder), tmp_path / "low-bit", options=options))
    shutil.rmtree(folder)
    assert checkpoint.names() == packed_tensors(name).keys()
    for tensor, expected in packed_tensors(name).items():
        assert torch.equal(checkpoint.get(tensor).float(), expected.float()), tensor
    tokenizer = matching_tokenizer(checkpoint.tokenizer_folder, checkpoint.config)
    model = build_model(checkpoint.config, Int4Weights(checkpoint, "exact"))
    params = GenerationParams(max_new_tokens=8, temperature=0)
    request = GenerationRequest("r", messages=(Message("user", "what is AI"),), params=params, ignore_stop_ids=True)
    engine = Engine(model, tokenizer)
    events = list(engine.generate(request))
    assert len([event for event in events if isinstance(event, TokenEvent)]) == 8
    if calls_tools("glm4", checkpoint.name, 128, checkpoint.tokenizer_folder):
        offered = replace(request, messages=(Offer("system", '[{"name": "f"}]'), *request.messages), openings=("f\n",))
        text = "".join(event.text for event in engine.generate(offered) if isinstance(event, TokenEvent))
        assert text.startswith("f\n")
    assert name == "glm-4-9b-chat" or calls_tools("glm4", checkpoint.name, 128, checkpoint.tokenizer_folder)


@pytest.mark.parametrize("template", [TOOLS_TEMPLATE, TOOLS_BESIDE], ids=["in a message", "beside the messages"])
def test_prompts_with_tools_are_those_of_transformers(tmp_path: Path, template: str) -> None:
    """The same text and ids as its own rendering of the folder's template."""
    transformers = pytest.importorskip("transformers")
    folder = write_json(tmp_path, template=template)
    function = {"name": "look", "description": "看 <b>", "parameters": {"type": "object"}}
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "kind", "metadata": ""}, {"role": "user", "content": "hi", "metadata": ""},
        {"role": "assistant", "content": '{"a": "好"}', "metadata": "look"},
        {"role": "observation", "content": "sunny", "metadata": ""},
    ]  # fmt: skip
    said = [
        Message("tool" if turn["role"] == "observation" else turn["role"], turn["content"], turn["metadata"])
        for turn in turns
    ]
    ours = load_tokenizer(folder, "glm4").encode_chat([Offer("system", offer_text([function])), *said])
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), chat_template=template)
    tools = [{"type": "function", "function": function}]
    if template == TOOLS_TEMPLATE:
        turns.insert(0, {"role": "system", "content": "", "tools": tools})
    text = theirs.apply_chat_template(turns, tools=tools, tokenize=False, add_generation_prompt=True)
    assert (ours.text, [*ours.ids]) == (text, theirs(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("Glm", {"rope_theta": 5e6, "attention_bias": True}),
        ("Glm", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 1.0}, "tie_word_embeddings": True}),
        ("Glm4", {"num_attention_heads": 6, "rope_theta": 1e4}),
    ],
    ids=["glm", "glm-tied", "glm4"],
)
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    """A random model that transformers itself writes: read from its files, fp32, every row of a prompt."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, f"{kind}ForCausalLM"):
        pytest.skip(f"this transformers has no {kind}")
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SMALL, "attention_bias": False, **changes})
    theirs = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for name, weight in theirs.named_parameters():
        torch.nn.init.normal_(weight, 1.0 if "norm" in name else 0.0, 0.1)
    theirs.save_pretrained(tmp_path)
    found = inspect_folder(tmp_path)
    ours = build_model(found.config, DenseWeights(read_dense(found)), kv_dtype=torch.float32)
    ids = torch.randint(3, 96, (50,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0]
    assert rel_error(read_prompt(ours, ids, ours.new_cache(50), logit_rows=50), expected) <= 1e-4


def test_a_fine_tune_with_transformers_names(tmp_path: Path) -> None:
    """Queries and values apart, of other ranks: beside the base and merged, as the weights with them added."""
    name = "glm-edge-4b-chat"
    config, base = golden_config(name), dense_tensors(name)
    shapes = {
        "self_attn.q_proj": (192, 128), "self_attn.v_proj": (64, 128), "self_attn.o_proj": (128, 192),
        "mlp.gate_up_proj": (512, 128),
    }  # fmt: skip
    random = torch.Generator().manual_seed(5)
    stored: dict[str, torch.Tensor] = {}
    tuned = dict(base)
    for module, (out, wide) in shapes.items():
        rank = 2 if module.endswith("v_proj") else 4
        a, b = torch.randn(rank, wide, generator=random) * 0.1, torch.randn(out, rank, generator=random) * 0.1
        key = f"base_model.model.model.layers.1.{module}"
        stored |= {f"{key}.lora_A.weight": a, f"{key}.lora_B.weight": b}
        ours = "transformer.encoder.layers.1." + {
            "self_attn.o_proj": "self_attention.dense", "mlp.gate_up_proj": "mlp.dense_h_to_4h",
        }.get(module, "self_attention.query_key_value") + ".weight"  # fmt: skip
        first = {"self_attn.v_proj": 192 + 64}.get(module, 0)
        weight = tuned[ours].float().clone()
        weight[first : first + out] += 8 / rank * b @ a
        tuned[ours] = weight
    (tmp_path / "lora").mkdir()
    details = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "rank_pattern": {"v_proj": 2}}
    (tmp_path / "lora/adapter_config.json").write_text(json.dumps(details))
    save_file(stored, tmp_path / "lora/adapter_model.safetensors")
    folder = inspect_adapter(tmp_path / "lora")
    weights = DenseWeights(base)
    adapter = load_adapter(folder, config, base=weights, dtype=torch.float32, kv_dtype=torch.float32)
    ids = golden_cases(name)[2].input_ids
    logits = []
    for one, whose in ((DenseWeights(tuned), None), (weights, adapter), (weights, None)):
        model = build_model(config, one, kv_dtype=torch.float32)
        logits.append(read_prompt(model, ids, model.new_cache(40, whose), logit_rows=len(ids)))
    assert rel_error(logits[1], logits[0]) <= 1e-4
    assert rel_error(logits[2], logits[0]) > 1e-2
    source = inspect_folder(whole_folder(tmp_path / name, name))
    merged = open_low_bit(convert(source, tmp_path / "merged", merge=open_merge(folder, source)))
    for tensor in ("self_attention.query_key_value", "mlp.dense_h_to_4h"):
        full = f"transformer.encoder.layers.1.{tensor}.weight"
        found, expected = (
            dequantize(packed, *tuned[full].shape) for packed in (merged.get(full), quantize(tuned[full]))
        )
        assert rel_error(found, expected) <= 1e-2, tensor


def test_what_does_not_fit_the_config_is_named(tmp_path: Path) -> None:
    """A stacked tensor whose parts have other rows, a tensor that is left over, and a base model by its name."""
    folder = whole_folder(tmp_path / "glm-edge-4b-chat", "glm-edge-4b-chat")
    config = json.loads((folder / "config.json").read_text())
    for change, error, words in (
        ({"num_attention_heads": 4}, WrongShape, "query_key_value"),
        ({"num_hidden_layers": 1}, CheckpointError, r"model\.layers\.1"),
        ({"attention_bias": True}, CheckpointError, r"query_key_value\.bias"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(error, match=words):
            read_dense(inspect_folder(folder))
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedFamily, match=r"glm-4-9b, a base model.*GLM-4-9B-Chat"):
        inspect_folder(folder.rename(tmp_path / "glm-4-9b"))
