"""Trains the small model; run as ``python -m tools.demo_model.train``. Stops and goes on from ``out/state.pt``."""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from tools.demo_model.corpus import OUT
from tools.demo_model.data import Stream
from tools.demo_model.network import Linear, Network, Size


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=46.0, help="the whole schedule, pauses counted")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens a step, padding counted")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument(
        "--int4-from", type=float, default=0.7, help="share of the time after which weights are rounded"
    )
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--name", default="state")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="a new schedule from the saved weights")
    parser.add_argument("--pid-file", type=Path, help="where to write this process's id")
    return parser.parse_args()


def rate_at(step: int, progress: float, peak: float) -> float:
    """Learning rate: a short warm-up, then a cosine over the time to a fiftieth."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return peak * cosine * min(1.0, (step + 1) / 100)


def optimiser_for(network: Network, rate: float) -> torch.optim.AdamW:
    """AdamW with decay on matrices only."""
    matrices = [p for p in network.parameters() if p.dim() == 2]
    vectors = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def main() -> None:
    """Train for ``--minutes`` and save the state every few hundred steps."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.pid_file:
        args.pid_file.write_text(str(os.getpid()), encoding="utf-8")
    state_file = OUT / f"{args.name}.pt"
    saved = torch.load(state_file) if state_file.exists() else None
    first, before = (saved["step"], saved["seconds"]) if saved else (0, 0.0)
    before = 0.0 if args.again else before
    stream = Stream(args.tokens, seed=first)
    size = Size(stream.sp.get_piece_size(), args.hidden, args.layers, args.heads)
    network = Network(size)
    optimiser = optimiser_for(network, args.rate)
    if saved:
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, from step {first}", flush=True)
    began, seen, losses = time.time(), 0, []
    for step, batch in enumerate(stream, first):
        seconds = before + time.time() - began
        progress = seconds / (60 * args.minutes)
        Linear.int4 = progress >= args.int4_from
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, progress, args.rate)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(batch.ids, batch.starts, batch.lengths, batch.wanted)
        loss = functional.cross_entropy(logits.float(), batch.targets, reduction="none")
        loss = (loss * batch.weights).sum() / batch.weights.sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        seen += batch.ids.numel()
        losses.append(loss.item())
        if (step + 1) % 20 == 0:
            speed = seen / (time.time() - began)
            print(f"{step + 1} loss {sum(losses) / len(losses):.4f} {speed:.0f} tok/s {seconds:.0f} s", flush=True)
            losses.clear()
        if (step + 1) % args.save_every == 0 or progress >= 1:
            save(state_file, network, optimiser, step + 1, seconds)
        if progress >= 1:
            break


def save(path: Path, network: Network, optimiser: torch.optim.AdamW, step: int, seconds: float) -> None:
    """Write everything needed to go on, or to export; never leaves half a file."""
    size = network.size
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "seconds": seconds,
        "size": [size.vocabulary, size.hidden, size.layers, size.heads],
    }
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    main()
