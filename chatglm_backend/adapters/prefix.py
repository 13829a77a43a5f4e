"""P-Tuning v2: the rows that stand in front of every layer's cache, from a prefix-only checkpoint.

Rows 0 to P-1 of the embedding, through two layers with tanh between them where the prefix was trained with a
projection, are [P, 2 * layers, kv_heads, head_dim]: a layer's keys at 2i, its values at 2i + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from chatglm_backend.adapters.folder import AdapterFolder
from chatglm_backend.errors import AdapterDamaged, AdapterMismatch, AdapterUnsupported
from chatglm_backend.models.adapter import Prefix
from chatglm_backend.models.config import ModelConfig

_START = "transformer.prefix_encoder."
_EMBEDDING, _PROJECTION = "embedding.weight", ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")
_MOST_ROWS = 8192


def read_prefix(
    tensors: Mapping[str, Tensor], config: ModelConfig, folder: AdapterFolder, dtype: torch.dtype
) -> Prefix:
    """The finished rows in ``dtype``; of a projection one layer's part is worked out at a time.

    Raises AdapterMismatch, AdapterUnsupported or AdapterDamaged.
    """
    named = {name.removeprefix("module.").removeprefix(_START): tensor for name, tensor in tensors.items()}
    if _EMBEDDING not in named:
        raise AdapterMismatch(path=folder.path, tensor=_START + _EMBEDDING, found="-", expected="a prefix")
    for name in named:
        if name not in (_EMBEDDING, *_PROJECTION):
            raise AdapterUnsupported(path=folder.file, field=name, value="this tensor")
    for name, tensor in named.items():
        if not tensor.is_floating_point() or not _finite(tensor):
            raise AdapterDamaged(path=folder.file, tensor=name)
    _check(named, config, folder)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    for index, part in enumerate(_parts(named, config)):
        # [P, heads * head_dim] -> [kv_heads, P, head_dim]
        shaped = part.view(-1, config.num_kv_heads, config.head_dim).transpose(0, 1).to(dtype).contiguous()
        if not _finite(shaped):
            raise AdapterDamaged(path=folder.file, tensor=f"{_START}{_EMBEDDING}, layer {index // 2}")
        (keys if index % 2 == 0 else values).append(shaped)
    return Prefix(tuple(keys), tuple(values))


def _check(named: Mapping[str, Tensor], config: ModelConfig, folder: AdapterFolder) -> None:
    part = config.num_kv_heads * config.head_dim
    full = 2 * config.num_layers * part
    rows = named[_EMBEDDING].shape[0]
    said = folder.config.get("pre_seq_len")
    expected: dict[str, tuple[int, ...]] = {_EMBEDDING: (rows, full)}
    if any(name in named for name in _PROJECTION):
        middle, width = (
            (config.hidden_size, config.hidden_size) if config.family == "chatglm" else (config.hidden_size, full)
        )
        expected = {
            _EMBEDDING: (rows, width), "trans.0.weight": (middle, width), "trans.0.bias": (middle,),
            "trans.2.weight": (full, middle), "trans.2.bias": (full,),
        }  # fmt: skip
    for name, shape in expected.items():
        found = tuple(named[name].shape) if name in named else "-"
        if found != shape or not 0 < rows <= _MOST_ROWS:
            raise AdapterMismatch(path=folder.path, tensor=_START + name, found=found, expected=shape)
    if isinstance(said, int) and said != rows:
        raise AdapterMismatch(path=folder.path, tensor="pre_seq_len", found=rows, expected=said)


def _parts(named: Mapping[str, Tensor], config: ModelConfig) -> Iterator[Tensor]:
    """fp32 [P, kv_heads * head_dim]: the keys of the first layer, its values, the keys of the second, and so on."""
    part = config.num_kv_heads * config.head_dim
    embedding = named[_EMBEDDING].float()
    if "trans.0.weight" in named:
        embedding = torch.tanh(embedding @ named["trans.0.weight"].float().T + named["trans.0.bias"].float())
    for start in range(0, 2 * config.num_layers * part, part):
        columns = slice(start, start + part)
        if "trans.2.weight" in named:
            yield embedding @ named["trans.2.weight"][columns].float().T + named["trans.2.bias"][columns].float()
        else:
            yield embedding[:, columns]


def _finite(tensor: Tensor) -> bool:
    """Row by row in pieces, as a mapped tensor may be larger than the memory that is free."""
    return all(bool(torch.isfinite(piece).all()) for piece in torch.split(tensor, 4096))
