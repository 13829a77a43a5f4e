"""Starts a new training run from the bundled INT4 weights; run as ``python -m tools.demo_model.warm``.

Writes ``out/state.pt`` without an optimiser and ``out/ice_text.model``, the bundled vocabulary.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from torch import Tensor

from chatglm_backend.checkpoint.default import bundled_folder
from chatglm_backend.checkpoint.lowbit import LowBitCheckpoint, open_low_bit
from chatglm_backend.int4.blocks import dequantize
from tools.demo_model.corpus import OUT
from tools.demo_model.network import Network, Size


def dense_state(checkpoint: LowBitCheckpoint) -> tuple[dict[str, Tensor], Size]:
    """The network's parameters [fp32], linears from their INT4 blocks, and its size.

    The embedding is kept in fp16, so the tied output layer starts unrounded.
    """
    config = checkpoint.config
    size = Size(config.vocab_size, config.hidden_size, config.num_layers, config.num_heads)
    state = Network(size).state_dict()
    for name, parameter in state.items():
        found = checkpoint.get(name)
        state[name] = dequantize(found, *parameter.shape) if found.dtype is torch.uint8 else found.float().clone()
    return state, size


def main() -> None:
    """Write the state that ``train`` goes on from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=bundled_folder())
    parser.add_argument("--name", default="state")
    args = parser.parse_args()
    OUT.mkdir(exist_ok=True)
    checkpoint = open_low_bit(args.model)
    network, size = dense_state(checkpoint)
    shutil.copyfile(checkpoint.tokenizer_folder / "ice_text.model", OUT / "ice_text.model")
    sizes = [size.vocabulary, size.hidden, size.layers, size.heads]
    torch.save({"network": network, "step": 0, "tokens": 0, "size": sizes}, OUT / f"{args.name}.pt")


if __name__ == "__main__":
    main()
