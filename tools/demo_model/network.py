"""ChatGLM-6B's architecture at any size, batched and differentiable: for training only.

Parameter names are those of the authors' checkpoints, so that a state dict is a checkpoint.
Knows nothing of data or schedules; ``chatglm_backend.models`` computes the same without gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ALPHA = math.sqrt(2 * 28)
BLOCK = 64


@dataclass(frozen=True, slots=True)
class Size:
    """The sizes of a small ChatGLM."""

    vocabulary: int
    hidden: int = 256
    layers: int = 6
    heads: int = 4

    @property
    def head(self) -> int:
        """Values in one head."""
        return self.hidden // self.heads


def fake_int4(weight: Tensor) -> Tensor:
    """``weight`` rounded to ``sym_int4`` and back; gradients pass straight through."""
    blocks = weight.detach().float().view(-1, BLOCK)
    scale = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -8
    inverse = torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)
    levels = torch.clamp(torch.floor(blocks * inverse + 8.5), 0, 15) - 8
    rounded = (levels * scale.half().float()).view_as(weight)
    return weight + (rounded - weight.detach())


class Linear(nn.Linear):
    """A linear layer that can pretend to be INT4."""

    int4 = False

    def forward(self, x: Tensor) -> Tensor:
        """``x`` [..., in] -> [..., out]."""
        return functional.linear(x, fake_int4(self.weight) if Linear.int4 else self.weight, self.bias)


class Attention(nn.Module):
    """Prefix-LM attention with two-dimensional rotary positions."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.query_key_value = Linear(size.hidden, 3 * size.hidden)
        self.dense = Linear(size.hidden, size.hidden)
        self.front: Tensor | None = None
        """Keys and values [2, heads, rows, head] that every row sees besides, as P-Tuning has them."""

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """``x`` [batch, length, hidden]; ``rotary`` cos, sin [batch, 1, length, head]."""
        batch, length, _ = x.shape
        qkv = self.query_key_value(x).view(batch, length, self.size.heads, 3 * self.size.head).transpose(1, 2)
        q, k, v = qkv.split(self.size.head, dim=-1)
        q, k = rotate(q, rotary), rotate(k, rotary)
        if self.front is not None:
            keys, values = self.front.to(k.dtype).unsqueeze(1).expand(-1, batch, -1, -1, -1)
            k, v = torch.cat((keys, k), dim=2), torch.cat((values, v), dim=2)
            mask = functional.pad(mask, (keys.shape[2], 0))
        # By hand: torch's fused CPU kernel is several times slower on sequences this short.
        scores = (q * self.size.head**-0.5) @ k.transpose(-1, -2) + mask
        out = scores.softmax(-1).to(v.dtype) @ v
        return self.dense(out.transpose(1, 2).reshape(batch, length, -1))


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate each half of the head by its own positions; within a half, its two halves form the pairs."""
    cos, sin = rotary
    return x * cos + x.unflatten(-1, (2, 2, -1)).flip(-2).flatten(-3) * sin


class Block(nn.Module):
    """One layer; residuals start from the normalised input, scaled by alpha."""

    dropout = 0.0
    """How much of what attention and MLP give is left out, for all layers; nothing but in training."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(size.hidden)
        self.attention = Attention(size)
        self.post_attention_layernorm = nn.LayerNorm(size.hidden)
        self.mlp = nn.ModuleDict(
            {
                "dense_h_to_4h": Linear(size.hidden, 4 * size.hidden),
                "dense_4h_to_h": Linear(4 * size.hidden, size.hidden),
            }
        )

    def forward(self, h: Tensor, rotary: tuple[Tensor, Tensor], mask: Tensor, wanted: Tensor | None = None) -> Tensor:
        """``h`` [batch, length, hidden] -> the same shape, or the ``wanted`` positions' rows [number, hidden]."""
        a = self.input_layernorm(h)
        seen = functional.dropout(self.attention(a, rotary, mask), Block.dropout)
        h = ALPHA * a + seen if wanted is None else ALPHA * a[wanted] + seen[wanted]
        m = self.post_attention_layernorm(h)
        inner = functional.gelu(self.mlp["dense_h_to_4h"](m), approximate="tanh")
        return ALPHA * m + functional.dropout(self.mlp["dense_4h_to_h"](inner), Block.dropout)


class Network(nn.Module):
    """The whole model; embedding and output layer are tied."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.transformer = nn.Module()
        self.transformer.word_embeddings = nn.Embedding(size.vocabulary, size.hidden)
        self.transformer.layers = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.transformer.final_layernorm = nn.LayerNorm(size.hidden)
        self._initialise()

    def _initialise(self) -> None:
        # The residual is alpha times a normalised vector: the branches must start large enough to be heard.
        nn.init.normal_(self.transformer.word_embeddings.weight, std=0.05)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2 and "embeddings" not in name:
                gain = 3.0 if "attention.dense" in name or "4h_to_h" in name else 1.0
                nn.init.normal_(parameter, std=gain / math.sqrt(parameter.shape[1]))

    def forward(self, ids: Tensor, starts: Tensor, lengths: Tensor, wanted: Tensor) -> Tensor:
        """Logits [number of wanted, vocabulary] at the ``wanted`` [batch, length] positions.

        ``ids`` [batch, length] padded; ``starts`` [batch]: index of ``<sop>``, ``[gMASK]`` lies before it;
        ``lengths`` [batch].
        """
        mask = prefix_mask(starts, lengths, ids.shape[1])
        rotary = rotary_table(starts, ids.shape[1], self.size.head)
        h = functional.dropout(self.transformer.word_embeddings(ids), Block.dropout)
        if torch.is_autocast_enabled("cpu"):
            h, mask = h.bfloat16(), mask.bfloat16()
            rotary = (rotary[0].bfloat16(), rotary[1].bfloat16())
        *blocks, last = self.transformer.layers
        for block in blocks:
            h = block(h, rotary, mask)
        # Of the last layer's MLP, which looks at no other position, only the wanted ones are worked out.
        h = self.transformer.final_layernorm(last(h, rotary, mask, wanted))
        weight = self.transformer.word_embeddings.weight
        return functional.linear(h, fake_int4(weight) if Linear.int4 else weight)


def prefix_mask(starts: Tensor, lengths: Tensor, length: int) -> Tensor:
    """Added to scores, [batch, 1, length, length]: the prefix is seen by all, the rest is causal."""
    at = torch.arange(length)
    seen = (at[None, None, :] < starts[:, None, None]) | (at[None, :] <= at[:, None])[None]
    seen = seen & ((at[None, None, :] < lengths[:, None, None]) | (at[None, None, :] == 0))
    return torch.zeros(seen.shape).masked_fill_(~seen, -1e4)[:, None]


def rotary_table(starts: Tensor, length: int, head: int) -> tuple[Tensor, Tensor]:
    """Cos and signed sin, [batch, 1, length, head]: position ids' halves first, block position ids' second."""
    at = torch.arange(length)[None, :]
    after = at >= starts[:, None]
    position = torch.where(after, starts[:, None] - 1, at)
    block = torch.where(after, at - starts[:, None] + 1, torch.zeros_like(at))
    dim = head // 2
    inv_freq = (1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim)).half().float()
    angles = torch.stack((position, block), dim=-1).float()[..., None] * inv_freq
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat((cos, cos), -1).flatten(-2), torch.cat((-sin, sin), -1).flatten(-2)
