"""Write a full-size ChatGLM checkpoint of random weights, in the shards of the real ones.

For measuring conversion, memory and speed without a download: 13.4 GB for ChatGLM-6B, whose tied
output layer is stored twice, as the authors do. The same seed gives the same bytes. The weights
mean nothing; the sizes, names and formats are the authors'.

    python -m benchmarks.full_size_folder /big/disk/chatglm-6b
    python -m benchmarks.full_size_folder /big/disk/chatglm3-6b --shape chatglm3-6b --format safetensors
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from chatglm_backend.checkpoint.known import MODELS
from chatglm_backend.checkpoint.source import TOKENIZER_FILES
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.models.layout import TensorSpec, names_in_transformers, tensor_specs

# Where transformers looks for the authors' code, if it is put beside the weights; nothing here reads it.
CODE: dict[str, object] = {
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "use_cache": True,
}
SHAPES = {name: row for name, row in MODELS.items() if row.bits == 16}


def random_tensor(spec: TensorSpec, seed: int) -> Tensor:
    """An fp16 tensor of that shape, of its own by its name: a deviation of 0.02, norm weights near 1."""
    generator = torch.Generator().manual_seed(seed + zlib.crc32(spec.name.encode()))
    tensor = torch.empty(spec.shape, dtype=torch.float16).normal_(0, 0.02, generator=generator)
    return tensor + 1 if spec.kind == "vector" and spec.name.endswith("norm.weight") else tensor


def stored_specs(config: ModelConfig, *, transformers: bool) -> tuple[TensorSpec, ...]:
    """What the authors' files hold; in transformers' layout queries, keys and values apart."""
    specs = tensor_specs(config)[: -1 if config.tied else None]
    if not transformers:
        return specs
    found = []
    for spec in specs:
        names = names_in_transformers(spec.name)
        heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
        rows = spec.shape[:1] if len(names) == 1 else [count * config.head_dim for count in heads]
        found += [TensorSpec(n, (r, *spec.shape[1:]), spec.kind) for n, r in zip(names, rows, strict=True)]
    return tuple(found)


def shards(specs: tuple[TensorSpec, ...], shard_bytes: int) -> Iterator[tuple[TensorSpec, ...]]:
    """Split the tensors, in order, into groups of at most that many bytes."""
    group: list[TensorSpec] = []
    size = 0
    for spec in specs:
        nbytes = 2 * math.prod(spec.shape)
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
    format: str = "bin",  # noqa: A002 - the flag's name
    seed: int = 0,
    layers: int | None = None,
    shard_bytes: int = 1_900_000_000,
    tokenizer: Path | None = None,
) -> int:
    """Write the checkpoint and return its size in bytes. Only one shard is in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    row = SHAPES[shape]
    theirs = {"glm": {"architectures": ["GlmForCausalLM"]}, "glm4": {"architectures": ["Glm4ForCausalLM"]}}
    code = theirs.get(str(row.json["model_type"]), CODE)
    config_json = {**code, **row.json, "_name_or_path": row.hub_id}
    layered = "num_hidden_layers" if "num_hidden_layers" in row.json else "num_layers"
    if layers:
        config_json[layered] = layers
    config = ModelConfig.from_json(config_json, family=row.family)
    (folder / "config.json").write_text(json.dumps(config_json, indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        if tokenizer and (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    specs = stored_specs(config, transformers=layered == "num_hidden_layers")
    groups = list(shards(specs, shard_bytes))
    stem, suffix = ("pytorch_model", ".bin") if format == "bin" else ("model", ".safetensors")
    weight_map, total, embedding = {}, 0, tensor_specs(config)[0]
    for number, group in enumerate(groups, 1):
        file = folder / f"{stem}-{number:05}-of-{len(groups):05}{suffix}"
        tied = config.family == "chatglm"
        tensors = {s.name: random_tensor(embedding if tied and s.kind == "output" else s, seed) for s in group}
        if format == "bin":
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
    total = write_folder(**vars(arguments))
    print(f"{arguments.folder}: {total / 1e9:.1f} GB in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
