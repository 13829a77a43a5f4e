"""Exports the trained model; run as ``python -m tools.demo_model.export``.

Writes an fp16 checkpoint in the authors' form to ``out/dense``, and its INT4 conversion, made by
``chatglm_backend.checkpoint.convert``, to ``chatglm_backend/demo_model``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from chatglm_backend.checkpoint.convert import convert
from chatglm_backend.checkpoint.default import bundled_folder
from chatglm_backend.checkpoint.source import inspect_folder
from tools.demo_model.corpus import OUT

LIMIT = 16_000_000
CONTEXT = 512


def config_json(size: list[int], pieces: sentencepiece.SentencePieceProcessor) -> dict[str, object]:
    """A config.json as ChatGLM-6B has it, for these sizes and this vocabulary."""
    vocabulary, hidden, layers, heads = size
    return {
        "_name_or_path": "demo-model",
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "bos_token_id": pieces.piece_to_id("<sop>"),
        "eos_token_id": pieces.piece_to_id("<eop>"),
        "mask_token_id": pieces.piece_to_id("[MASK]"),
        "gmask_token_id": pieces.piece_to_id("[gMASK]"),
        "pad_token_id": 3,
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "inner_hidden_size": 4 * hidden,
        "num_layers": layers,
        "num_attention_heads": heads,
        "layernorm_epsilon": 1e-5,
        "max_sequence_length": CONTEXT,
        "position_encoding_2d": True,
        "torch_dtype": "float16",
    }


def write_dense(state: dict[str, object], folder: Path) -> None:
    """The trained state as an ordinary fp16 checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = OUT / "ice_text.model"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(vocabulary))
    network: dict[str, Tensor] = state["network"]  # type: ignore[assignment]
    tensors = {name: tensor.half().contiguous() for name, tensor in network.items()}
    tensors["lm_head.weight"] = tensors["transformer.word_embeddings.weight"]
    torch.save(tensors, folder / "pytorch_model.bin")
    config = config_json(state["size"], pieces)  # type: ignore[arg-type]
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    details = {"tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": 0, "remove_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(details, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(vocabulary, folder / "ice_text.model")


def main() -> None:
    """Export ``out/NAME.pt``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="state")
    parser.add_argument("--target", type=Path, default=bundled_folder())
    args = parser.parse_args()
    state = torch.load(OUT / f"{args.name}.pt")
    dense = OUT / "dense"
    write_dense(state, dense)
    convert(inspect_folder(dense, name="demo-model"), args.target)
    for private in (".lock", "local.json", "sums.json"):
        (args.target / private).unlink(missing_ok=True)
    total = sum(file.stat().st_size for file in args.target.rglob("*") if file.is_file())
    print(f"step {state['step']}, {total / 1e6:.1f} MB in {args.target}")
    if total > LIMIT:
        raise SystemExit(f"larger than {LIMIT / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
