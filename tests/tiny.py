"""Small random checkpoints in the real on-disk formats, with a small real tokenizer.

Shared by every test that needs a model: nothing is downloaded, nothing is committed.
``build_checkpoint`` writes what the authors' folders hold; the weights mean nothing, so the
answers are gibberish that only depends on ``seed``.
"""

from __future__ import annotations

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import sentencepiece

Family = Literal["chatglm", "chatglm2", "chatglm3"]
WeightFormat = Literal["bin", "safetensors"]

FAMILIES: tuple[Family, ...] = ("chatglm", "chatglm2", "chatglm3")
NAMES: dict[Family, str] = {"chatglm": "chatglm-6b", "chatglm2": "chatglm2-6b", "chatglm3": "chatglm3-6b"}

SENTENCES = (
    "AI是什么？人工智能是计算机科学的一个分支。",
    "What is AI? Artificial intelligence is a branch of computer science.",
    "问：你好 答：你好！有什么可以帮你？",
    "晚上睡不着应该怎么办？放下手机，听一听轻音乐。",
    "The quick brown fox jumps over the lazy dog 0123456789 times.",
    "[Round 0] [Round 1] def f(x): return x * 2",
    "今天天气怎么样？北京晴，二十度，适合散步和读书。",
    "Prompt, answer, token, model, page and terminal are words of this project.",
)
V1_CONTROLS = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
V1_WHITESPACE = ("<n>", "<|tab|>", *(f"<|blank_{n}|>" for n in range(2, 81)))


@lru_cache(maxsize=2)
def sentencepiece_model(*, first_family: bool) -> bytes:
    """Train a vocabulary of some hundred pieces: ChatGLM-6B's kind, or the one of ChatGLM2 and ChatGLM3."""
    out = io.BytesIO()
    options: dict[str, Any] = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    if first_family:
        options = {
            "normalization_rule_name": "nmt_nfkc",
            "pad_id": 3,
            "control_symbols": list(V1_CONTROLS),
            "user_defined_symbols": list(V1_WHITESPACE),
        }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 8),
        model_writer=out,
        model_type="unigram" if first_family else "bpe",
        vocab_size=600,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def build_tokenizer(folder: Path, family: Family) -> Path:
    """Write the tokenizer files and the config of one family, without weights, and return ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    data = sentencepiece_model(first_family=family == "chatglm")
    name = "ice_text.model" if family == "chatglm" else "tokenizer.model"
    (folder / name).write_bytes(data)
    details = {"name_or_path": f"THUDM/{NAMES[family]}", "tokenizer_class": "ChatGLMTokenizer"}
    if family == "chatglm":
        details["num_image_tokens"] = 0  # type: ignore[assignment]
    _write_json(folder / "tokenizer_config.json", details)
    _write_json(folder / "config.json", config_of(family))
    return folder


def config_of(family: Family, **changes: object) -> dict[str, Any]:
    """Return a config.json in the authors' words for a model of about a million weights."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(sentencepiece_model(first_family=family == "chatglm"))
    pieces = processor.get_piece_size()
    config: dict[str, Any] = {
        "_name_or_path": f"THUDM/{NAMES[family]}",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "hidden_size": 128,
        "num_layers": 2,
        "num_attention_heads": 4,
        "layernorm_epsilon": 1e-5,
        "torch_dtype": "float16",
    }
    if family == "chatglm":
        config |= {
            "bos_token_id": processor.piece_to_id("<sop>"),
            "eos_token_id": processor.piece_to_id("<eop>"),
            "mask_token_id": processor.piece_to_id("[MASK]"),
            "gmask_token_id": processor.piece_to_id("[gMASK]"),
            "pad_token_id": 3,
            "inner_hidden_size": 256,
            "max_sequence_length": 512,
            "position_encoding_2d": True,
            "vocab_size": _rounded(pieces),
        }
    else:
        config |= {
            "add_bias_linear": False,
            "add_qkv_bias": True,
            "apply_residual_connection_post_layernorm": False,
            "ffn_hidden_size": 192,
            "kv_channels": 32,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "original_rope": True,
            "padded_vocab_size": _rounded(pieces + 9),
            "post_layer_norm": True,
            "rmsnorm": True,
            "seq_length": 512,
            "tie_word_embeddings": False,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }
    return config | changes


def build_checkpoint(
    folder: Path, family: Family, *, form: WeightFormat = "bin", shards: int = 2, seed: int = 0, **changes: object
) -> Path:
    """Write a whole folder: config, tokenizer, and fp16 weights in ``shards`` files with their index.

    ``changes`` replace entries of the config. Returns ``folder``.
    """
    import torch

    from chatglm_backend.models.config import ModelConfig
    from chatglm_backend.models.layout import tensor_specs

    build_tokenizer(folder, family)
    config = config_of(family, **changes)
    _write_json(folder / "config.json", config)
    random = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for spec in tensor_specs(ModelConfig.from_json(config, family=family)):
        values = torch.randn(spec.shape, generator=random) * (0.1 if len(spec.shape) == 2 else 0.02)
        is_norm = spec.kind == "vector" and "layernorm" in spec.name and spec.name.endswith("weight")
        tensors[spec.name] = (values + 1 if is_norm else values).to(torch.float16)
    _silence(tensors, family)
    if family == "chatglm":
        tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"].clone()
    _write_weights(folder, tensors, form, shards)
    return folder


def _silence(tensors: dict[str, Any], family: Family) -> None:
    """Make ids that decode to nothing, or to nothing visible, unlikely, so that answers have text."""
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(sentencepiece_model(first_family=family == "chatglm"))
    pieces = processor.get_piece_size()
    name = "transformer.word_embeddings.weight" if family == "chatglm" else "transformer.output_layer.weight"
    blanks = {processor.piece_to_id(name) for name in V1_WHITESPACE[1:]} if family == "chatglm" else set()
    mute = [i for i in range(pieces) if processor.is_control(i) or processor.is_unknown(i) or i in blanks]
    tensors[name][mute] *= 0.1
    tensors[name][pieces:] *= 0.1
    if family == "chatglm":
        # Tied weights would make the last token its own likeliest follower for ever.
        tensors["transformer.final_layernorm.weight"][1::2] *= -1


def _write_weights(folder: Path, tensors: dict[str, Any], form: WeightFormat, shards: int) -> None:
    import torch
    from safetensors.torch import save_file

    stem, suffix = ("pytorch_model", "bin") if form == "bin" else ("model", "safetensors")
    names = list(tensors)
    size = -(-len(names) // shards)
    where: dict[str, str] = {}
    for index in range(shards):
        part = {name: tensors[name] for name in names[index * size : (index + 1) * size]}
        file = f"{stem}.{suffix}" if shards == 1 else f"{stem}-{index + 1:05d}-of-{shards:05d}.{suffix}"
        where |= dict.fromkeys(part, file)
        if form == "bin":
            torch.save(part, folder / file)
        else:
            save_file(part, folder / file, metadata={"format": "pt"})
    if shards > 1:
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        index_file = folder / f"{stem}.{suffix}.index.json"
        _write_json(index_file, {"metadata": {"total_size": total}, "weight_map": where})


def _rounded(size: int) -> int:
    return -(-size // 64) * 64


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
