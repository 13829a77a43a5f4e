"""P-Tuning v2: the prefix of a fine-tune as it was trained, and the finished rows that are made of it.

Rows 0 to P-1 of the embedding, through two layers with tanh between them where the prefix was trained with a
projection, are [P, 2 * layers, kv_heads, head_dim]: a layer's keys at 2i, its values at 2i + 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from chatglm_backend.checkpoint.adapters import PREFIX
from chatglm_backend.errors import AdapterDamaged, AdapterMismatch, AdapterUnsupported
from chatglm_backend.models.config import ModelConfig
from chatglm_backend.sentences import Sentence

_EMBEDDING, _PROJECTION = "embedding.weight", ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")
_MOST_ROWS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class TrainedPrefix:
    """Tensors by their names within the prefix encoder, of the shapes that ``config`` asks for."""

    tensors: Mapping[str, Tensor]
    config: ModelConfig
    file: Path

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """That of :data:`PREFIX_ROWS`."""
        rows = self.tensors[_EMBEDDING].shape[0]
        return 2 * self.config.num_layers, self.config.num_kv_heads, rows, self.config.head_dim

    def parts(self) -> Iterator[Tensor]:
        """fp32 [kv_heads, P, head_dim]: the keys of the first layer, its values, the keys of the second, and so on.

        Of a projection one part is worked out at a time.
        """
        width = self.config.num_kv_heads * self.config.head_dim
        rows = self.tensors[_EMBEDDING]
        if _PROJECTION[0] in self.tensors:
            weight, bias = (self.tensors[name] for name in _PROJECTION[:2])
            rows = torch.tanh(rows.float() @ weight.float().T + bias.float())
        for index in range(2 * self.config.num_layers):
            columns = slice(index * width, (index + 1) * width)
            if _PROJECTION[0] in self.tensors:
                weight, bias = (self.tensors[name][columns].float() for name in _PROJECTION[2:])
                part = rows @ weight.T + bias
            else:
                part = rows[:, columns].float()
            yield part.view(-1, self.config.num_kv_heads, self.config.head_dim).transpose(0, 1).contiguous()


def read_prefix(tensors: Mapping[str, Tensor], config: ModelConfig, file: Path, said: object) -> TrainedPrefix:
    """Check the tensors of a prefix encoder; ``said`` is the config's ``pre_seq_len``, if it has one.

    Raises AdapterMismatch, AdapterUnsupported or AdapterDamaged.
    """
    named = {name.removeprefix("module.").removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    if _EMBEDDING not in named:
        raise AdapterMismatch(path=file.parent, reason=Sentence("adapter.absent", tensor=PREFIX + _EMBEDDING))
    for name, tensor in named.items():
        if name not in (_EMBEDDING, *_PROJECTION):
            raise AdapterUnsupported(path=file, field=name, value=Sentence("adapter.a_tensor"))
        if not tensor.is_floating_point() or not _finite(tensor):
            raise AdapterDamaged(path=file, tensor=name)
    full = 2 * config.num_layers * config.num_kv_heads * config.head_dim
    rows, middle = (*named[_EMBEDDING].shape, 0)[0], config.hidden_size
    expected: dict[str, tuple[int, ...]] = {_EMBEDDING: (rows, full)}
    if any(name in named for name in _PROJECTION):
        width = middle if config.family == "chatglm" else full
        shapes = ((middle, width), (middle,), (full, middle), (full,))
        expected = {_EMBEDDING: (rows, width), **dict(zip(_PROJECTION, shapes, strict=True))}
    for name, shape in expected.items():
        if name not in named:
            raise AdapterMismatch(path=file.parent, reason=Sentence("adapter.absent", tensor=PREFIX + name))
        found = tuple(named[name].shape)
        if found != shape or not 0 < rows <= _MOST_ROWS:
            reason = Sentence("adapter.shape", tensor=PREFIX + name, found=found, expected=shape)
            raise AdapterMismatch(path=file.parent, reason=reason)
    if isinstance(said, int) and said != rows:
        raise AdapterMismatch(path=file.parent, reason=Sentence("adapter.rows", said=said, rows=rows))
    return TrainedPrefix(named, config, file)


def _finite(tensor: Tensor) -> bool:
    """In pieces, as a mapped tensor may be larger than the memory that is free."""
    return all(bool(piece.isfinite().all()) for piece in torch.split(tensor.reshape(-1), 1 << 24))
