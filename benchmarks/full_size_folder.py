"""Write a full-size ChatGLM checkpoint of random weights, in the shards of the real ones.

For measuring conversion, memory and speed without a download: 13.4 GB for ChatGLM-6B, whose tied
output layer is stored twice, as the authors do. The same seed gives the same bytes. The weights
mean nothing; the sizes, names and formats are the authors'.

    python benchmarks/full_size_folder.py /big/disk/chatglm-6b
    python benchmarks/full_size_folder.py /big/disk/chatglm3-6b --shape chatglm3-6b --format safetensors
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from chatglm_backend.models.config import ModelConfig  # noqa: E402
from chatglm_backend.models.layout import TensorSpec, tensor_specs  # noqa: E402

AUTO_MAP = {
    "AutoConfig": "configuration_chatglm.ChatGLMConfig",
    "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
}
"""Where transformers looks for the authors' code, if it is put beside the weights; nothing here reads it."""
FIRST: dict[str, object] = {
    "architectures": ["ChatGLMModel"],
    "auto_map": AUTO_MAP,
    "bos_token_id": 130004,
    "eos_token_id": 130005,
    "gmask_token_id": 130001,
    "hidden_size": 4096,
    "inner_hidden_size": 16384,
    "layernorm_epsilon": 1e-05,
    "mask_token_id": 130000,
    "max_sequence_length": 2048,
    "model_type": "chatglm",
    "num_attention_heads": 32,
    "num_layers": 28,
    "pad_token_id": 3,
    "position_encoding_2d": True,
    "torch_dtype": "float16",
    "use_cache": True,
    "vocab_size": 130528,
}
SECOND: dict[str, object] = {
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["ChatGLMModel"],
    "auto_map": AUTO_MAP,
    "eos_token_id": 2,
    "ffn_hidden_size": 13696,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "model_type": "chatglm",
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "pad_token_id": 0,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
}
SHAPES: dict[str, dict[str, object]] = {
    "chatglm-6b": {**FIRST, "_name_or_path": "THUDM/chatglm-6b"},
    "chatglm2-6b": {**SECOND, "_name_or_path": "THUDM/chatglm2-6b", "seq_length": 32768},
    "chatglm3-6b": {**SECOND, "_name_or_path": "THUDM/chatglm3-6b", "seq_length": 8192},
}
POOL = 1 << 24
TOKENIZER_FILES = ("ice_text.model", "tokenizer.model", "tokenizer_config.json")


class RandomWeights:
    """Draws from one pool of random numbers, from a different place for each tensor: fast, and never twice the same."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._pool = (torch.randn(POOL, generator=generator) * 0.02).half()

    def tensor(self, spec: TensorSpec) -> Tensor:
        """An fp16 tensor of that shape: matrices with a deviation of 0.02, norm weights near 1."""
        count = 1
        for n in spec.shape:
            count *= n
        out = torch.empty(count, dtype=torch.float16)
        start, done = zlib.crc32(spec.name.encode()) % POOL, 0
        while done < count:
            piece = self._pool[start : start + count - done]
            out[done : done + piece.numel()] = piece
            done += piece.numel()
            # A step that shares no factor with the pool's length keeps repeats out of line with the rows.
            start = (start + 7_654_321) % POOL
        if spec.kind == "vector" and spec.name.endswith("norm.weight"):
            out += 1
        return out.view(spec.shape)


def shards(specs: tuple[TensorSpec, ...], shard_bytes: int) -> Iterator[tuple[TensorSpec, ...]]:
    """Split the tensors, in order, into groups of at most that many bytes."""
    group: list[TensorSpec] = []
    size = 0
    for spec in specs:
        nbytes = 2
        for n in spec.shape:
            nbytes *= n
        if group and size + nbytes > shard_bytes:
            yield tuple(group)
            group, size = [], 0
        group.append(spec)
        size += nbytes
    yield tuple(group)


def write_folder(
    folder: Path,
    *,
    shape: str = "chatglm-6b",
    weight_format: str = "bin",
    seed: int = 0,
    layers: int | None = None,
    shard_bytes: int = 1_900_000_000,
    tokenizer: Path | None = None,
) -> int:
    """Write the checkpoint and return its size in bytes. Only one shard is in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    config_json = dict(SHAPES[shape])
    if layers:
        config_json["num_layers"] = layers
    config = ModelConfig.from_json(config_json, path=shape)
    (folder / "config.json").write_text(json.dumps(config_json, indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        if tokenizer and (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    groups = list(shards(tensor_specs(config), shard_bytes))
    stem, suffix = ("pytorch_model", ".bin") if weight_format == "bin" else ("model", ".safetensors")
    random, weight_map, total, embedding = RandomWeights(seed), {}, 0, tensor_specs(config)[0]
    for number, group in enumerate(groups, 1):
        file = folder / f"{stem}-{number:05}-of-{len(groups):05}{suffix}"
        tied = config.family == "chatglm"
        tensors = {s.name: random.tensor(embedding if tied and s.kind == "output" else s) for s in group}
        if weight_format == "bin":
            torch.save(tensors, file)
        else:
            save_file(tensors, file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file.name))
        total += sum(t.nbytes for t in tensors.values())
        del tensors
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return total


def main() -> None:
    """Write the folder that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="chatglm-6b")
    parser.add_argument("--format", choices=("bin", "safetensors"), default="bin")
    parser.add_argument("--layers", type=int, help="fewer layers, for a smaller folder")
    parser.add_argument("--tokenizer", type=Path, help="a folder whose tokenizer files to copy")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.perf_counter()
    total = write_folder(
        arguments.folder,
        shape=arguments.shape,
        weight_format=arguments.format,
        seed=arguments.seed,
        layers=arguments.layers,
        tokenizer=arguments.tokenizer,
    )
    print(f"{arguments.folder}: {total / 1e9:.1f} GB in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
