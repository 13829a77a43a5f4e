"""Trains the small model; run as ``python -m tools.demo_model.train``. Stops and goes on from ``out/state.pt``."""

from __future__ import annotations

import argparse
import signal
import threading
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.demo_model.corpus import OUT
from tools.demo_model.data import Batch, Stream
from tools.demo_model.network import Block, Linear, Network, Size


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10000, help="the whole schedule; pauses change nothing")
    parser.add_argument("--decay", type=int, default=2500, help="the last steps: falling rate, weights rounded to INT4")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens a step, padding counted")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--behind", type=float, default=0.18, help="questions that stand behind an earlier round")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--name", default="state")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def rate_at(step: int, steps: int, decay: int, peak: float) -> float:
    """Learning rate: a short warm-up, level, then a straight fall to a fiftieth over the last ``decay`` steps.

    Level for most of the run, so that the end can be moved while it runs.
    """
    left = max(0.0, min(1.0, (steps - step) / decay))
    return peak * (0.02 + 0.98 * left) * min(1.0, (step + 1) / 100)


def optimiser_for(network: Network, rate: float) -> torch.optim.AdamW:
    """AdamW with decay on matrices only."""
    matrices = [p for p in network.parameters() if p.dim() == 2]
    vectors = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)


def main() -> None:
    """Train up to ``--steps`` and save the state every few hundred steps, and when told to stop."""
    args = arguments()
    torch.set_num_threads(args.threads)
    Block.dropout = args.dropout
    torch.manual_seed(0)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    state_file = OUT / f"{args.name}.pt"
    saved = torch.load(state_file) if state_file.exists() else None
    first, tokens = (saved["step"], saved["tokens"]) if saved else (0, 0)
    stream = Stream(args.tokens, seed=first, behind=args.behind)
    network = Network(Size(stream.sp.get_piece_size(), args.hidden, args.layers, args.heads))
    optimiser = optimiser_for(network, args.rate)
    if saved:
        network.load_state_dict(saved["network"])
        if "optimiser" in saved:
            optimiser.load_state_dict(saved["optimiser"])
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters, from step {first}", flush=True)
    began, seen, losses = time.time(), 0, []
    for step, batch in enumerate(stream, first):
        Linear.int4 = step >= args.steps - args.decay
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, args.steps, args.decay, args.rate)
        each = learn(network, optimiser, batch)
        stream.note(batch.names, each.tolist())
        losses.append(float(each.mean()))
        seen += batch.ids.numel()
        if (step + 1) % 20 == 0:
            speed, seconds = seen / (time.time() - began), time.process_time()
            print(f"{step + 1} loss {sum(losses) / len(losses):.4f} {speed:.0f} tok/s {seconds:.0f} CPU s", flush=True)
            losses.clear()
        ended = stop.is_set() or step + 1 >= args.steps
        if ended or (step + 1) % args.save_every == 0:
            save(state_file, network, optimiser, step + 1, tokens + seen)
        if ended:
            break


def learn(network: Network, optimiser: torch.optim.AdamW, batch: Batch) -> Tensor:
    """One step; each example's mean loss a token [examples] before it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(batch.ids, batch.starts, batch.lengths, batch.wanted)
    each = functional.cross_entropy(logits.float(), batch.targets, reduction="none")
    loss = (each * batch.weights).sum() / batch.weights.sum()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimiser.step()
    rows = batch.wanted.nonzero()[:, 0]
    summed = torch.zeros(len(batch.ids)).index_add_(0, rows, each.detach())
    return summed / batch.wanted.sum(1)


def save(path: Path, network: Network, optimiser: torch.optim.AdamW, step: int, tokens: int) -> None:
    """Write everything needed to go on, or to export; never leaves half a file."""
    size = network.size
    state = {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "tokens": tokens,
        "size": [size.vocabulary, size.hidden, size.layers, size.heads],
    }
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


if __name__ == "__main__":
    main()
